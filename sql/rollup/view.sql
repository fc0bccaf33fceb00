-- One row per window and tuple, its latest revision: for BI tools. {columns}: declared columns, only ever appended.
CREATE OR REPLACE VIEW rollups."{table}" AS
SELECT DISTINCT ON ("timestamp", tuple_key)
    "timestamp", timestamp_millis, external_customer_id, count, revision, final, emitted_at{columns}
FROM rollups."{table}_aggregated"
ORDER BY "timestamp" DESC, tuple_key DESC, revision DESC;
