-- name: columns
-- Every column ever declared for a table, in order of declaration.
SELECT column_name, kind FROM rollup_engine.rollup_columns WHERE table_name = $1 ORDER BY position;

-- name: has_tier
SELECT EXISTS (SELECT FROM rollup_engine.tiers WHERE table_name = $1 AND tier = $2);

-- name: add_tier
INSERT INTO rollup_engine.tiers (table_name, tier, step_ms) VALUES ($1, $2, $3);

-- name: present
-- The columns that a relation has.
SELECT attname FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped;

-- name: note_all
SELECT rollup_engine.note_all($1);

-- name: only_one
-- Of an app id's, until the session ends or lets go.
SELECT pg_try_advisory_lock(1919249009, hashtext($1));

-- name: let_go
SELECT pg_advisory_unlock_all();

-- name: tables
SELECT table_name, window_ms, ARRAY(SELECT tier FROM rollup_engine.tiers WHERE tiers.table_name = rollups.table_name) AS made
FROM rollup_engine.rollups WHERE app_id = $1 ORDER BY table_name;

-- name: noted
-- How many steps of each kind wait.
SELECT tier, count(DISTINCT (table_name, start)) AS steps FROM rollup_engine.changes
WHERE table_name = ANY ($1::text[]) GROUP BY tier;

-- name: unknown
-- Tables whose partials somebody has changed without notes, once that was $2 seconds ago, or as it has gone on for $3: an
-- engine from before there were notes changes them time and again, and each look notes every hour.
SELECT table_name FROM rollup_engine.changes WHERE table_name = ANY ($1::text[]) AND tier = 'all' GROUP BY table_name
HAVING max(created_at) <= now() - $2 * interval '1 second' OR min(created_at) <= now() - $3 * interval '1 second';

-- name: all_notes
SELECT coalesce(array_agg(id), '{}') FROM rollup_engine.changes WHERE table_name = $1 AND tier = 'all';

-- name: due_hours
-- Hours in which nothing has come for $2 seconds; and, of those that are over, the ones that have waited for $3.
SELECT table_name, start FROM rollup_engine.changes WHERE table_name = ANY ($1::text[]) AND tier = 'hour'
GROUP BY table_name, start
HAVING max(created_at) <= now() - $2 * interval '1 second'
    OR (min(created_at) <= now() - $3 * interval '1 second' AND start <= now() - interval '1 hour')
ORDER BY min(id) LIMIT $4;

-- name: due_days
-- Days of which every hour is up to date: as long as one is not, the day would be behind again at once.
SELECT table_name, start FROM rollup_engine.changes AS day WHERE table_name = ANY ($1::text[]) AND tier = 'day'
AND NOT EXISTS (
    SELECT FROM rollup_engine.changes AS hour WHERE hour.table_name = day.table_name AND hour.tier = 'hour'
    AND hour.start >= day.start AND hour.start < day.start + interval '24 hours'
)
GROUP BY table_name, start ORDER BY min(id) LIMIT $2;

-- name: due_compactions
-- Hours noted no later than $2: all they held then is older than that.
SELECT table_name, start FROM rollup_engine.changes WHERE table_name = ANY ($1::text[]) AND tier = 'compact'
GROUP BY table_name, start HAVING min(created_at) <= $2 ORDER BY min(id) LIMIT $3;

-- name: before
SELECT clock_timestamp() - $1 * interval '1 second';

-- name: notes
SELECT coalesce(array_agg(id), '{}') FROM rollup_engine.changes
WHERE table_name = $1 AND tier = $2 AND start = $3 AND ($4::timestamptz IS NULL OR created_at <= $4);

-- name: done
-- Exactly the notes that were read: others that have come meanwhile stay.
DELETE FROM rollup_engine.changes WHERE id = ANY ($1::bigint[]);

-- name: add_note
-- By the clock, not by the transaction's beginning: everything that the transaction saw was there by then.
INSERT INTO rollup_engine.changes (table_name, tier, start, created_at) VALUES ($1, $2, $3, clock_timestamp());

-- name: windows
-- The windows of $2 milliseconds from $1 on that a table has rows of, one entry of its index each. {table}, {suffix}: its
-- name.
WITH RECURSIVE windows AS (
    (SELECT "timestamp" AS start FROM rollups."{table}{suffix}"
     WHERE "timestamp" >= $1 AND "timestamp" < $1 + $2::bigint * interval '1 millisecond' ORDER BY "timestamp" LIMIT 1)
    UNION ALL
    SELECT (
        SELECT "timestamp" FROM rollups."{table}{suffix}"
        WHERE "timestamp" > windows.start AND "timestamp" < $1 + $2 * interval '1 millisecond' ORDER BY "timestamp" LIMIT 1
    ) FROM windows WHERE windows.start IS NOT NULL
)
SELECT coalesce(array_agg(start), '{}') FROM windows WHERE start IS NOT NULL;

-- name: sample
-- How many rows of these windows fall into a 256th of all tuple keys: keys are hashes, so there are about 256 times more.
SELECT count(*) FROM rollups."{table}{suffix}"
WHERE "timestamp" = ANY ($1::timestamptz[]) AND tuple_key < '01000000-0000-0000-0000-000000000000';

-- name: refresh
-- Rows of one step ($1) and of tuple keys from $3 to $4, made anew from the windows $2 of a finer table. What is right
-- already is not written again. The source is the finer table's rows, one per window and tuple.
WITH fresh AS MATERIALIZED (
    SELECT {columns}, {totals} FROM ({source}) AS latest GROUP BY {columns}
), gone AS (
    DELETE FROM rollups."{table}{suffix}" AS held
    WHERE "timestamp" = $1 AND tuple_key BETWEEN $3 AND $4
    AND NOT EXISTS (SELECT FROM fresh WHERE fresh.tuple_key = held.tuple_key)
)
INSERT INTO rollups."{table}{suffix}" AS held ("timestamp", {columns}, {names}) SELECT $1::timestamptz, * FROM fresh
ON CONFLICT ("timestamp", tuple_key) DO UPDATE SET ({names}) = ROW ({excluded})
WHERE ({held}) IS DISTINCT FROM ({excluded});

-- name: from_partials
SELECT DISTINCT ON ("timestamp", tuple_key) * FROM rollups."{table}_aggregated"
WHERE "timestamp" = ANY ($2::timestamptz[]) AND tuple_key BETWEEN $3 AND $4
ORDER BY "timestamp" DESC, tuple_key DESC, revision DESC

-- name: from_hours
SELECT * FROM rollups."{table}_hourly" WHERE "timestamp" = ANY ($2::timestamptz[]) AND tuple_key BETWEEN $3 AND $4

-- name: partition
-- The partition that holds a window.
SELECT tableoid::regclass::text FROM rollups."{table}_aggregated" WHERE "timestamp" = $1 LIMIT 1;

-- name: compact
-- Superseded partials of these windows and tuple keys, emitted no later than $4.
DELETE FROM rollups."{table}_aggregated" AS old
WHERE "timestamp" = ANY ($1::timestamptz[]) AND tuple_key BETWEEN $2 AND $3 AND emitted_at <= $4
AND EXISTS (
    SELECT FROM rollups."{table}_aggregated" AS newer
    WHERE newer."timestamp" = old."timestamp" AND newer.tuple_key = old.tuple_key AND newer.revision > old.revision
);

-- name: sizes
-- Bytes of a rollup's partials, partitions and indexes included, and of its tiers.
SELECT
    (SELECT coalesce(sum(pg_total_relation_size(relid)), 0)::bigint
     FROM pg_partition_tree(to_regclass('rollups.' || quote_ident($1 || '_aggregated')))) AS partials,
    (SELECT coalesce(sum(pg_total_relation_size(to_regclass('rollups.' || quote_ident($1 || suffix)))), 0)::bigint
     FROM unnest($2::text[]) AS suffix) AS tiers;

-- name: partitions
-- Of the partials of these rollups.
SELECT relid::regclass::text FROM unnest($1::text[]) AS name,
    pg_partition_tree(to_regclass('rollups.' || quote_ident(name || '_aggregated'))) WHERE isleaf;

-- name: unfinished_indexes
-- Of a partition, as left by a REINDEX that was cut off.
SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
WHERE indrelid = $1::text::regclass AND NOT indisvalid AND relname LIKE '%\_cc%';

-- name: count
SELECT count(*) FROM rollups."{table}_aggregated";

-- name: waiting
-- Notes by table and kind.
SELECT table_name, tier, count(DISTINCT start) AS steps FROM rollup_engine.changes
JOIN rollup_engine.rollups USING (table_name) WHERE app_id = $1 GROUP BY table_name, tier ORDER BY table_name, tier;
