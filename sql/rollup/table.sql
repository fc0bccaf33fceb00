-- A rollup's partial rollups: append-only, one row per window, tuple and revision. {table}: the rollup's table name.
CREATE TABLE IF NOT EXISTS rollups."{table}_aggregated" (
    idempotency_key      uuid        NOT NULL,
    "timestamp"          timestamptz NOT NULL,
    timestamp_millis     bigint      GENERATED ALWAYS AS ((extract(epoch FROM "timestamp" AT TIME ZONE 'UTC') * 1000)::bigint) STORED,
    external_customer_id text        NOT NULL,
    count                bigint      NOT NULL,
    revision             bigint      NOT NULL,
    final                boolean     NOT NULL DEFAULT false,
    emitted_at           timestamptz NOT NULL DEFAULT now(),
    tuple_key            uuid        NOT NULL
) PARTITION BY RANGE ("timestamp");
CREATE INDEX IF NOT EXISTS "{table}_latest" ON rollups."{table}_aggregated" ("timestamp", tuple_key, revision);
-- Months get a partition of their own as they appear; times far from ours share one, so that junk makes no thousands.
CREATE TABLE IF NOT EXISTS rollups."{table}_aggregated_other" PARTITION OF rollups."{table}_aggregated" DEFAULT;
DO $$ BEGIN
    ALTER TABLE rollups."{table}_aggregated_other" ADD CONSTRAINT far
        CHECK ("timestamp" < '2000-01-01Z' OR "timestamp" >= '2100-01-01Z');
EXCEPTION WHEN duplicate_object THEN NULL;
END $$;
