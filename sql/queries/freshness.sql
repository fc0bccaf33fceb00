-- name: token
-- Changes with every committed emission, with every claim, and with every new YAML; the parts only grow.
SELECT coalesce(sum(epoch), 0)::bigint AS epochs, coalesce(sum(version), 0)::bigint AS versions, (
    SELECT coalesce(max(generation), 0) FROM rollup_engine.generations WHERE app_id = $1
) AS generation FROM rollup_engine.progress WHERE app_id = $1 AND stage = 'rollup';

-- name: look
-- Every stage's rows and the internal topics' lives, as of one instant. Of the states only what freshness asks for.
SELECT
    (SELECT jsonb_object_agg(topic, jsonb_build_array(incarnation, partitions)) FROM rollup_engine.topics WHERE app_id = $1)
        AS topics,
    (SELECT jsonb_agg(jsonb_build_array(stage, source, next_offset, first_offset, jsonb_strip_nulls(jsonb_build_object(
        'watermarks', state -> 'watermarks', 'quiet_ms', state -> 'quiet_ms', 'marks', state -> 'marks',
        'closed_ms', state -> 'closed_ms'
    )))) FROM rollup_engine.progress WHERE app_id = $1) AS rows;
