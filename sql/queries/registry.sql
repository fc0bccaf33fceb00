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
SELECT $1, $2, $3, $4, now() + $5 * interval '1 second'
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
-- clocks by which ids expire; marks and the checksum of the last record mean nothing now.
UPDATE rollup_engine.progress SET
    epoch = epoch + 1, version = version + 1, next_offset = 0, first_offset = 0,
    state = state - 'marks' - 'revision_offset' - 'covered' - 'last_offset' - 'last_crc'
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
-- The largest event time that any raw partition has seen of an event type so far, ms; null before its first event.
SELECT max((state -> 'watermarks' ->> $2)::bigint) FROM rollup_engine.progress WHERE app_id = $1 AND stage = 'route';
