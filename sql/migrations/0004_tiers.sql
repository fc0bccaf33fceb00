-- Hourly and daily totals of every rollup, and the notes that say where they are behind.

-- The tier tables there are. `tier`: hour or day. A rollup has those that its windows divide and are shorter than.
CREATE TABLE rollup_engine.tiers (
    table_name text   NOT NULL REFERENCES rollup_engine.rollups,
    tier       text   NOT NULL CHECK (tier IN ('hour', 'day')),
    step_ms    bigint NOT NULL,
    PRIMARY KEY (table_name, tier)
);

-- Append-only notes of work to be done, each deleted by whoever did it, by id. The tiers are exact except where noted.
--   hour     partials of this hour have come since its totals were made; one per emission and hour, in its transaction
--   day      totals of hours of this day have changed since the day's were made
--   compact  this hour may hold partials that later ones have superseded
--   all      somebody who leaves no such notes has changed the partials: as if every hour were noted
-- Without a unique key on purpose: emissions of the same hour must not wait for each other, nor for the refresh.
CREATE TABLE rollup_engine.changes (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    table_name text        NOT NULL,
    tier       text        NOT NULL CHECK (tier IN ('hour', 'day', 'compact', 'all')),
    start      timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX changes_by_start ON rollup_engine.changes (table_name, tier, start);

-- Notes every hour in which a rollup has partials or totals. Reads one entry of each table's index per hour.
CREATE FUNCTION rollup_engine.note_all(rollup text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    relation text;
BEGIN
    FOREACH relation IN ARRAY ARRAY['_aggregated', '_hourly', '_daily'] LOOP
        CONTINUE WHEN relation <> '_aggregated' AND NOT EXISTS (
            SELECT FROM rollup_engine.tiers
            WHERE table_name = rollup AND relation = CASE tier WHEN 'hour' THEN '_hourly' ELSE '_daily' END
        );
        EXECUTE format($query$
            WITH RECURSIVE hours AS (
                (SELECT date_trunc('hour', "timestamp", 'UTC') AS start FROM rollups.%1$I ORDER BY "timestamp" LIMIT 1)
                UNION ALL
                SELECT (
                    SELECT date_trunc('hour', "timestamp", 'UTC') FROM rollups.%1$I
                    WHERE "timestamp" >= hours.start + interval '1 hour' ORDER BY "timestamp" LIMIT 1
                ) FROM hours WHERE hours.start IS NOT NULL
            )
            INSERT INTO rollup_engine.changes (table_name, tier, start)
            SELECT %2$L, 'hour', start FROM hours WHERE start IS NOT NULL
        $query$, rollup || relation, rollup);
    END LOOP;
END $function$;
REVOKE ALL ON FUNCTION rollup_engine.note_all FROM PUBLIC;

-- Called as partials are changed by a session that does not say that it notes each hour itself.
CREATE FUNCTION rollup_engine.note_unknown() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog AS $function$
BEGIN
    INSERT INTO rollup_engine.changes (table_name, tier, start) VALUES (TG_ARGV[0], 'all', 'epoch');
    RETURN NULL;
END $function$;
REVOKE ALL ON FUNCTION rollup_engine.note_unknown FROM PUBLIC;

SELECT rollup_engine.note_all(table_name) FROM rollup_engine.rollups;
