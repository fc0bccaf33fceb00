-- A grouping or aggregate column declared later. {type}: text or numeric. {suffix}: _hourly or _daily.
ALTER TABLE rollups."{table}{suffix}" ADD COLUMN "{column}" {type};
