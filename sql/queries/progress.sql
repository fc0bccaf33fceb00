-- name: claim
-- Raise the epoch of a stage's row, or make it: whoever held it before can no longer advance.
INSERT INTO rollup_engine.progress (app_id, stage, source, epoch, version, next_offset, first_offset, state)
VALUES ($1, $2, $3, 1, 0, $4, $4, '{}')
ON CONFLICT (app_id, stage, source) DO UPDATE SET epoch = progress.epoch + 1
RETURNING next_offset, first_offset, epoch, version, state;

-- name: position
SELECT next_offset, first_offset, epoch, version, state FROM rollup_engine.progress
WHERE app_id = $1 AND stage = $2 AND source = $3;

-- name: positions
SELECT stage, source, next_offset, first_offset, epoch, version, state FROM rollup_engine.progress
WHERE app_id = $1 AND stage = ANY ($2);

-- name: advance
-- The compare-and-set, and with it the books and the hours of which partials come. No row: another worker has taken
-- over, and nothing is written.
WITH moved AS (
    UPDATE rollup_engine.progress SET next_offset = $6, state = $7, version = version + 1, updated_at = now()
    WHERE app_id = $1 AND stage = $2 AND source = $3 AND epoch = $4 AND version = $5
    RETURNING version
), booked AS (
    INSERT INTO rollup_engine.books (app_id, judge, event, source, counted, duplicate, conflicting, late, invalid, unmatched, records)
    SELECT $1, $3, line.* FROM moved, unnest(
        $8::text[], $9::text[], $10::bigint[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[]
    ) AS line
    ON CONFLICT (app_id, event, source, judge) DO UPDATE SET
        counted = books.counted + excluded.counted,
        duplicate = books.duplicate + excluded.duplicate,
        conflicting = books.conflicting + excluded.conflicting,
        late = books.late + excluded.late,
        invalid = books.invalid + excluded.invalid,
        unmatched = books.unmatched + excluded.unmatched,
        records = books.records + excluded.records
), noted AS (
    INSERT INTO rollup_engine.changes (table_name, tier, start)
    SELECT hour.table_name, 'hour', hour.start FROM moved, unnest($17::text[], $18::timestamptz[]) AS hour (table_name, start)
)
SELECT version FROM moved;

-- name: accepted
SELECT loss FROM rollup_engine.accepted_losses WHERE app_id = $1 AND stage = $2 AND source = $3;

-- name: read_back
-- The latest partial of each wanted window and tuple, by the table's one index. {table}, {columns}: names.
SELECT wanted.window_start, wanted.tuple_key, latest.*
FROM unnest($1::timestamptz[], $2::uuid[]) AS wanted (window_start, tuple_key)
CROSS JOIN LATERAL (
    SELECT {columns} FROM rollups."{table}_aggregated" AS partial
    WHERE partial."timestamp" = wanted.window_start AND partial.tuple_key = wanted.tuple_key
    ORDER BY partial.revision DESC LIMIT 1
) AS latest;

-- name: last_window
-- By the end of the table's one index. {table}: a name.
SELECT max("timestamp") FROM rollups."{table}_aggregated";

-- name: not_final
-- Backwards along the table's one index: of {rows} partials of windows from $1 on and before ($2, $3), each series'
-- latest where it is wanted, that is not final and tuple_key % $4 = $5; and in any case the last series read.
-- The modulus of 128 bits is taken 32 bits at a time. Names in capitals cannot be a rollup's columns.
SELECT "WANTED", "timestamp", tuple_key, {columns} FROM (
    SELECT latest.*, lead(true) OVER (ORDER BY latest."timestamp" DESC, latest.tuple_key DESC) IS NULL AS "LAST",
        NOT latest.final AND $5::bigint = (
            (((((("WORD"[1] % $4::bigint) << 32) + "WORD"[2]) % $4 << 32) + "WORD"[3]) % $4 << 32) + "WORD"[4]
        ) % $4 AS "WANTED"
    FROM (
        SELECT DISTINCT ON ("timestamp", tuple_key) * FROM (
            SELECT * FROM rollups."{table}_aggregated"
            WHERE "timestamp" >= $1 AND ("timestamp", tuple_key) < ($2, $3)
            ORDER BY "timestamp" DESC, tuple_key DESC, revision DESC LIMIT {rows}
        ) AS partial ORDER BY "timestamp" DESC, tuple_key DESC, revision DESC
    ) AS latest
    CROSS JOIN LATERAL (SELECT replace(latest.tuple_key::text, '-', '') AS "HEX") AS digits
    CROSS JOIN LATERAL (
        SELECT ARRAY[
            ('x' || substr("HEX", 1, 8))::bit(32)::bigint, ('x' || substr("HEX", 9, 8))::bit(32)::bigint,
            ('x' || substr("HEX", 17, 8))::bit(32)::bigint, ('x' || substr("HEX", 25, 8))::bit(32)::bigint
        ] AS "WORD"
    ) AS words
) AS scanned WHERE "WANTED" OR "LAST" ORDER BY "timestamp" DESC, tuple_key DESC;
