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
-- What an offset of a bucket is made of: `rollup_engine.buckets.offsets`.
SELECT letter.id, event, source, source_offset, bucket.url || object.name AS object,
    CASE WHEN object.name IS NOT NULL THEN (source_offset & ((1::bigint << 36) - 1)) + 1 END AS line,
    recorded_at, letter.outcome, reason, detail, event_id, original_bytes, replayed_at, replayed_to
FROM rollup_engine.dead_letters AS letter
LEFT JOIN (rollup_engine.buckets AS bucket JOIN rollup_engine.objects AS object ON object.bucket = bucket.id)
    ON bucket.app_id = letter.app_id AND bucket.topic = regexp_replace(source, '/[0-9]+$', '')
    AND object.number = source_offset >> 36
WHERE letter.app_id = $1 AND ($2::text IS NULL OR event = $2)
    AND ($3::text IS NULL OR reason = $3 OR letter.outcome = $3)
ORDER BY letter.id DESC LIMIT $4;

-- name: letter
SELECT letter.*, bucket.url || object.name AS object,
    CASE WHEN object.name IS NOT NULL THEN (source_offset & ((1::bigint << 36) - 1)) + 1 END AS line
FROM rollup_engine.dead_letters AS letter
LEFT JOIN (rollup_engine.buckets AS bucket JOIN rollup_engine.objects AS object ON object.bucket = bucket.id)
    ON bucket.app_id = letter.app_id AND bucket.topic = regexp_replace(source, '/[0-9]+$', '')
    AND object.number = source_offset >> 36
WHERE letter.app_id = $1 AND letter.id = $2;

-- name: letter_counts
SELECT event, outcome, reason, count(*) AS letters, min(recorded_at) AS first, max(recorded_at) AS last
FROM rollup_engine.dead_letters WHERE app_id = $1 GROUP BY event, outcome, reason ORDER BY event, outcome, reason;
