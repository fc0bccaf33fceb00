-- name: declare
-- A bucket of the YAML. Its format is the one in which its first object was read. $5: to be listed anew.
INSERT INTO rollup_engine.buckets (app_id, topic, url, format) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, topic) DO UPDATE SET
    wanted_at = CASE WHEN $5 THEN now() ELSE buckets.wanted_at END,
    format = CASE
        WHEN EXISTS (
            SELECT FROM rollup_engine.objects
            WHERE bucket = buckets.id AND number < 4 AND (begun OR outcome IS NOT NULL)  -- the first of its partition
        )
        THEN buckets.format ELSE excluded.format
    END
RETURNING format;

-- name: known
SELECT topic, objects, refusal_cause, refusal_remedy, (extract(epoch FROM listed_at) * 1000)::bigint AS listed_ms
FROM rollup_engine.buckets WHERE app_id = $1;

-- name: objects
SELECT number, name, etag, size, seen_ms, begun, outcome FROM rollup_engine.objects
WHERE bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2) AND number = ANY ($3::bigint[])
ORDER BY number;

-- name: begin
UPDATE rollup_engine.objects SET begun = true
WHERE bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2) AND number = $3 AND etag = $4
RETURNING number;

-- name: finish
-- A problem stays: the session that read an object to its end may be one that was taken over long ago.
UPDATE rollup_engine.objects AS object SET
    rows = done.rows, outcome = done.outcome, note = done.note,
    accepted_at = CASE WHEN object.outcome = done.outcome THEN object.accepted_at END
FROM unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[]) AS done (number, rows, outcome, note)
WHERE object.bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2)
    AND object.number = done.number
    AND (done.outcome <> 'read' OR object.outcome IS NULL OR object.outcome = 'read');

-- name: hold
-- No row: somebody else lists it. Otherwise whether a complete listing is wanted now.
UPDATE rollup_engine.buckets SET lister = $3, lister_until = clock_timestamp() + $4 * interval '1 second'
WHERE app_id = $1 AND topic = $2 AND (lister IS NULL OR lister = $3 OR lister_until < clock_timestamp())
RETURNING listed_at IS NULL OR listed_at < wanted_at;

-- name: release
UPDATE rollup_engine.buckets SET lister = NULL, lister_until = NULL WHERE app_id = $1 AND topic = $2 AND lister = $3;

-- name: now_ms
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- name: last_name
SELECT max(name) FROM rollup_engine.objects
WHERE bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2);

-- name: news
-- Of a page in name order, $3, with etags $4: what is not known at that etag. Nearly always nothing, and no lock.
SELECT listed.place FROM unnest($3::text[], $4::text[]) WITH ORDINALITY AS listed (name, etag, place)
LEFT JOIN rollup_engine.objects AS object
    ON object.bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2)
    AND object.name = listed.name COLLATE "C"
WHERE object.name IS NULL OR (object.etag <> listed.etag AND object.now_etag IS DISTINCT FROM listed.etag)
ORDER BY listed.place;

-- name: lock
-- Until the transaction ends nobody else gives out numbers of this bucket.
SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2 FOR NO KEY UPDATE;

-- name: add
-- Numbers for what is new of $2 (names), $3 (etags), $4 (sizes), in that order.
WITH fresh AS (
    SELECT listed.*, row_number() OVER (ORDER BY place) - 1 AS nth
    FROM unnest($2::text[], $3::text[], $4::bigint[]) WITH ORDINALITY AS listed (name, etag, size, place)
    WHERE NOT EXISTS (
        SELECT FROM rollup_engine.objects WHERE bucket = $1 AND objects.name = listed.name COLLATE "C"
    )
), bucket AS (
    UPDATE rollup_engine.buckets SET
        objects = objects + (SELECT count(*) FROM fresh),
        seen_ms = greatest(seen_ms, (extract(epoch FROM clock_timestamp()) * 1000)::bigint)
    WHERE id = $1
    RETURNING objects - (SELECT count(*) FROM fresh) AS first, seen_ms
)
INSERT INTO rollup_engine.objects (bucket, number, name, etag, size, seen_ms)
SELECT $1, bucket.first + fresh.nth, fresh.name, fresh.etag, fresh.size, bucket.seen_ms FROM fresh, bucket
RETURNING number;

-- name: retake
-- What nobody has begun to read is read as it is now.
UPDATE rollup_engine.objects AS object SET etag = listed.etag, size = listed.size
FROM unnest($2::text[], $3::text[], $4::bigint[]) AS listed (name, etag, size)
WHERE object.bucket = $1 AND object.name = listed.name COLLATE "C" AND object.etag <> listed.etag AND NOT object.begun
    AND object.outcome IS NULL;

-- name: others
-- What was read, and is another now.
SELECT object.number, object.name, object.etag, object.size, object.seen_ms, object.begun, object.outcome, listed.place
FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS listed (name, etag, place)
JOIN rollup_engine.objects AS object ON object.bucket = $1 AND object.name = listed.name COLLATE "C"
WHERE object.etag <> listed.etag AND object.now_etag IS DISTINCT FROM listed.etag AND object.outcome IS NOT NULL
ORDER BY listed.place;

-- name: changed
UPDATE rollup_engine.objects SET outcome = 'changed', now_etag = $4, note = $5, accepted_at = NULL
WHERE bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2) AND number = $3
    AND outcome IS NOT NULL AND etag <> $4 AND now_etag IS DISTINCT FROM $4
RETURNING number;

-- name: waiting
SELECT EXISTS (
    SELECT FROM rollup_engine.objects
    WHERE bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2) AND outcome IS NULL
);

-- name: listed
UPDATE rollup_engine.buckets SET
    listed_at = greatest(listed_at, timestamptz 'epoch' + $3 * interval '1 millisecond'),
    listing_ms = greatest(0, (extract(epoch FROM clock_timestamp()) * 1000)::bigint - $3),
    refusal_cause = NULL, refusal_remedy = NULL
WHERE app_id = $1 AND topic = $2
RETURNING (
    SELECT count(*) FROM rollup_engine.objects
    WHERE bucket = buckets.id AND outcome IN ('damaged', 'changed', 'gone') AND accepted_at IS NULL
);

-- name: refused
UPDATE rollup_engine.buckets SET refusal_cause = $3, refusal_remedy = $4 WHERE app_id = $1 AND topic = $2;

-- name: state
-- Every bucket: how many objects are known, whether a complete listing is due that somebody waits for, and problems.
SELECT bucket.topic, bucket.url, bucket.objects, bucket.listed_at, bucket.listing_ms,
    bucket.listed_at IS NULL OR bucket.listed_at < bucket.wanted_at AS unlisted,
    (extract(epoch FROM clock_timestamp() - coalesce(bucket.listed_at, bucket.wanted_at)) * 1000)::bigint AS age_ms,
    (
        SELECT count(*) FROM rollup_engine.objects
        WHERE bucket = bucket.id AND outcome IN ('damaged', 'changed', 'gone') AND accepted_at IS NULL
    ) AS problems
FROM rollup_engine.buckets AS bucket WHERE bucket.app_id = $1 AND bucket.topic = ANY ($2::text[]) ORDER BY bucket.topic;

-- name: problems
-- The latest of a bucket's that nobody has seen to.
SELECT object.number, object.name, object.outcome, object.note FROM rollup_engine.objects AS object
WHERE object.bucket = (SELECT id FROM rollup_engine.buckets WHERE app_id = $1 AND topic = $2)
    AND object.outcome IN ('damaged', 'changed', 'gone') AND object.accepted_at IS NULL
ORDER BY object.number DESC LIMIT $3;

-- name: judges
-- How many partitions of dedup there are.
SELECT partitions FROM rollup_engine.topics WHERE app_id = $1 AND topic = $2;

-- name: list
-- The latest objects of every bucket; with $2 only problems that nobody has seen to. `refused`: dead letters of it.
SELECT bucket.url AS bucket, object.name AS object, object.size,
    CASE WHEN object.outcome IS NOT NULL THEN object.outcome WHEN object.begun THEN 'reading' ELSE 'waiting' END AS state,
    object.rows, (
        SELECT count(*) FROM rollup_engine.dead_letters AS letter
        WHERE letter.app_id = $1 AND letter.source LIKE 'bucket.%'
            AND letter.source = bucket.topic || '/' || object.number % 4
            AND letter.source_offset >= object.number << 36 AND letter.source_offset < (object.number + 1) << 36
    ) AS refused,
    timestamptz 'epoch' + object.seen_ms * interval '1 millisecond' AS seen_at, object.accepted_at, object.note
FROM rollup_engine.buckets AS bucket CROSS JOIN LATERAL (
    (SELECT * FROM rollup_engine.objects WHERE NOT $2 AND bucket = bucket.id ORDER BY number DESC LIMIT $3)
    UNION ALL
    (
        SELECT * FROM rollup_engine.objects
        WHERE $2 AND bucket = bucket.id AND outcome IN ('damaged', 'changed', 'gone') AND accepted_at IS NULL
        ORDER BY number DESC LIMIT $3
    )
) AS object
WHERE bucket.app_id = $1 ORDER BY object.seen_ms DESC, bucket.id, object.number DESC LIMIT $3;

-- name: called
-- Objects of this name, or at this URL.
SELECT bucket.id, bucket.url, object.number, object.outcome IN ('damaged', 'changed', 'gone') AS problem
FROM rollup_engine.buckets AS bucket
JOIN rollup_engine.objects AS object ON object.bucket = bucket.id
    AND object.name IN ($2, CASE WHEN starts_with($2, bucket.url) THEN substr($2, length(bucket.url) + 1) END)
WHERE bucket.app_id = $1 ORDER BY bucket.id;

-- name: accept
UPDATE rollup_engine.objects SET accepted_at = now() WHERE bucket = $1 AND number = $2;
