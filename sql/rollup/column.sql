-- A grouping or aggregate column. {type}: text or numeric.
ALTER TABLE rollups."{table}_aggregated" ADD COLUMN IF NOT EXISTS "{column}" {type};
