-- name: books
-- The books per event type and raw source, over all judges.
SELECT event, source,
    sum(counted)::bigint AS counted, sum(duplicate)::bigint AS duplicate, sum(conflicting)::bigint AS conflicting,
    sum(late)::bigint AS late, sum(invalid)::bigint AS invalid, sum(unmatched)::bigint AS unmatched,
    sum(records)::bigint AS records
FROM rollup_engine.books WHERE app_id = $1 GROUP BY event, source;

-- name: positions
SELECT stage, source, next_offset, first_offset, state FROM rollup_engine.progress WHERE app_id = $1;

-- name: letters
SELECT id, event, source, source_offset, recorded_at, outcome, reason, detail, event_id, original_bytes, replayed_at,
    replayed_to
FROM rollup_engine.dead_letters
WHERE app_id = $1 AND ($2::text IS NULL OR event = $2) AND ($3::text IS NULL OR reason = $3 OR outcome = $3)
ORDER BY id DESC LIMIT $4;

-- name: letter
SELECT * FROM rollup_engine.dead_letters WHERE app_id = $1 AND id = $2;

-- name: letter_counts
SELECT event, outcome, reason, count(*) AS letters, min(recorded_at) AS first, max(recorded_at) AS last
FROM rollup_engine.dead_letters WHERE app_id = $1 GROUP BY event, outcome, reason ORDER BY event, outcome, reason;
