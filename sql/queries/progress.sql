-- name: claim
-- Raise the epoch of a stage's row, or make it: whoever held it before can no longer advance.
INSERT INTO rollup_engine.progress (app_id, stage, source, epoch, version, next_offset, first_offset, state)
VALUES ($1, $2, $3, 1, 0, $4, $4, '{}')
ON CONFLICT (app_id, stage, source) DO UPDATE SET epoch = progress.epoch + 1
RETURNING next_offset, first_offset, epoch, version, state;

-- name: position
SELECT next_offset, first_offset, epoch, version, state FROM rollup_engine.progress
WHERE app_id = $1 AND stage = $2 AND source = $3;

-- name: position_settled
-- Waits for a transaction that is still ending on the row: after a COMMIT without an answer.
SELECT next_offset, first_offset, epoch, version, state FROM rollup_engine.progress
WHERE app_id = $1 AND stage = $2 AND source = $3 FOR UPDATE;

-- name: advance
-- The compare-and-set. No row updated: another worker has taken over.
UPDATE rollup_engine.progress SET next_offset = $6, state = $7, version = version + 1, updated_at = now()
WHERE app_id = $1 AND stage = $2 AND source = $3 AND epoch = $4 AND version = $5
RETURNING version;

-- name: accepted
SELECT loss FROM rollup_engine.accepted_losses WHERE app_id = $1 AND stage = $2 AND source = $3;

-- name: book
INSERT INTO rollup_engine.books (app_id, judge, event, source, counted, duplicate, conflicting, late, invalid, unmatched, records)
SELECT $1, $2, * FROM unnest($3::text[], $4::text[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[], $11::bigint[])
ON CONFLICT (app_id, event, source, judge) DO UPDATE SET
    counted = books.counted + excluded.counted,
    duplicate = books.duplicate + excluded.duplicate,
    conflicting = books.conflicting + excluded.conflicting,
    late = books.late + excluded.late,
    invalid = books.invalid + excluded.invalid,
    unmatched = books.unmatched + excluded.unmatched,
    records = books.records + excluded.records;

-- name: read_back
-- The latest partial of each wanted window and tuple, by the table's one index. {table}, {columns}: names.
SELECT wanted.window_start, wanted.tuple_key, latest.*
FROM unnest($1::timestamptz[], $2::uuid[]) AS wanted (window_start, tuple_key)
CROSS JOIN LATERAL (
    SELECT {columns} FROM rollups."{table}_aggregated" AS partial
    WHERE partial."timestamp" = wanted.window_start AND partial.tuple_key = wanted.tuple_key
    ORDER BY partial.revision DESC LIMIT 1
) AS latest;
