-- name: other_holders
-- Whoever runs now with another YAML.
SELECT lease.what, generation.config FROM rollup_engine.leases AS lease
JOIN rollup_engine.generations AS generation USING (app_id, generation)
WHERE lease.app_id = $1 AND lease.expires_at > now() AND generation.digest <> $2
ORDER BY lease.expires_at DESC LIMIT 1;

-- name: holders
-- Whoever runs now, but us.
SELECT what FROM rollup_engine.leases WHERE app_id = $1 AND holder <> $2 AND expires_at > now()
ORDER BY expires_at DESC LIMIT 1;

-- name: latest_generation
SELECT generation, digest, config FROM rollup_engine.generations WHERE app_id = $1 ORDER BY generation DESC LIMIT 1;

-- name: add_generation
INSERT INTO rollup_engine.generations (app_id, generation, digest, config)
SELECT $1, coalesce(max(generation), 0) + 1, $2, $3 FROM rollup_engine.generations WHERE app_id = $1
RETURNING generation;

-- name: config_of
SELECT config FROM rollup_engine.generations WHERE app_id = $1 AND generation = $2;

-- name: renew_lease
-- No row: a newer generation has begun while this one's lease was over.
INSERT INTO rollup_engine.leases (app_id, holder, generation, what, expires_at)
SELECT $1, $2, $3, $4, clock_timestamp() + $5 * interval '1 second'
WHERE $3 = (SELECT max(generation) FROM rollup_engine.generations WHERE app_id = $1)
ON CONFLICT (app_id, holder) DO UPDATE SET expires_at = excluded.expires_at
RETURNING generation;

-- name: end_lease
DELETE FROM rollup_engine.leases WHERE app_id = $1 AND (holder = $2 OR expires_at < now() - interval '1 day');

-- name: cluster
SELECT cluster_id FROM rollup_engine.clusters WHERE app_id = $1;

-- name: set_cluster
INSERT INTO rollup_engine.clusters (app_id, cluster_id) VALUES ($1, $2)
ON CONFLICT (app_id) DO UPDATE SET cluster_id = excluded.cluster_id;

-- name: forget_topics
DELETE FROM rollup_engine.topics WHERE app_id = $1;

-- name: restart_positions
-- The embedded broker started anew: positions begin again. What route has seen of event times stays, and so do the
-- clocks by which ids expire; marks and the checksum of the last record mean nothing now. Except of buckets, which are as
-- they were: dedup keeps their marks, and route goes back to what every partition of dedup has taken in.
WITH bucket AS (
    SELECT topic FROM rollup_engine.buckets WHERE app_id = $1
), judge AS (
    SELECT coalesce(state -> 'marks', '{}') AS marks FROM rollup_engine.progress WHERE app_id = $1 AND stage = 'dedup'
), judged AS (
    SELECT raw.source, CASE WHEN count(*) >= (
        SELECT partitions FROM rollup_engine.topics WHERE app_id = $1 AND topic = $1 || '.events'
    ) THEN min(coalesce((judge.marks ->> raw.source)::bigint, raw.first_offset)) END AS position
    FROM rollup_engine.progress AS raw, judge
    WHERE raw.app_id = $1 AND raw.stage = 'route'
        AND regexp_replace(raw.source, '/[0-9]+$', '') IN (SELECT topic FROM bucket)
    GROUP BY raw.source
)
UPDATE rollup_engine.progress AS row SET
    epoch = epoch + 1, version = version + 1,
    next_offset = CASE
        WHEN stage = 'route' AND regexp_replace(source, '/[0-9]+$', '') IN (SELECT topic FROM bucket)
        THEN coalesce((SELECT position FROM judged WHERE judged.source = row.source), first_offset)
        ELSE 0
    END,
    first_offset = CASE
        WHEN stage = 'route' AND regexp_replace(source, '/[0-9]+$', '') IN (SELECT topic FROM bucket) THEN first_offset
        ELSE 0
    END,
    state = (state - 'marks' - 'revision_offset' - 'covered' - 'last_offset' - 'last_crc') || CASE
        WHEN stage = 'dedup' THEN jsonb_build_object('marks', (
            SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(coalesce(state -> 'marks', '{}'))
            WHERE regexp_replace(key, '/[0-9]+$', '') IN (SELECT topic FROM bucket)
        ))
        ELSE '{}'
    END
WHERE app_id = $1;

-- name: topics
SELECT topic, incarnation, partitions FROM rollup_engine.topics WHERE app_id = $1;

-- name: add_topic
INSERT INTO rollup_engine.topics (app_id, topic, incarnation, partitions) VALUES ($1, $2, $3, $4);

-- name: tables
SELECT table_name FROM rollup_engine.rollups WHERE app_id = $1 ORDER BY table_name;

-- name: complete_from
-- From when on a table counts everything, of those that were added after the first event of their event type.
SELECT table_name, complete_from FROM rollup_engine.rollups WHERE app_id = $1 AND complete_from IS NOT NULL;

-- name: latest_seen
-- The largest event time that any raw partition of these topics has seen so far, of whatever event type, ms; null before
-- the first.
SELECT max(seen.watermark::bigint)
FROM rollup_engine.progress, LATERAL jsonb_each_text(state -> 'watermarks') AS seen (event, watermark)
WHERE app_id = $1 AND stage = 'route' AND regexp_replace(source, '/[0-9]+$', '') = ANY ($2::text[]);

-- name: incomplete_before
-- A table that was left out of the YAML for a while counts everything from here on only.
UPDATE rollup_engine.rollups SET complete_from = greatest(complete_from, $2) WHERE table_name = $1;
