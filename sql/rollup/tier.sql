-- Exact totals per hour or day and tuple, made from partial rollups. {suffix}: _hourly or _daily. {columns}: declared ones.
CREATE TABLE rollups."{table}{suffix}" (
    "timestamp"          timestamptz NOT NULL,
    timestamp_millis     bigint      GENERATED ALWAYS AS ((extract(epoch FROM "timestamp" AT TIME ZONE 'UTC') * 1000)::bigint) STORED,
    external_customer_id text        NOT NULL,
    count                bigint      NOT NULL,
    tuple_key            uuid        NOT NULL,
    PRIMARY KEY ("timestamp", tuple_key){columns}
);
CREATE INDEX "{table}{suffix}_customer" ON rollups."{table}{suffix}" (external_customer_id, "timestamp");
