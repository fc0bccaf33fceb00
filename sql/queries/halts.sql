-- name: raise
-- A partition has halted; `since` stays as long as it is the same halt.
INSERT INTO rollup_engine.halts (app_id, stage, source, cause, remedy, loss) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (app_id, stage, source) DO UPDATE SET
    since = CASE WHEN halts.cause = excluded.cause THEN halts.since ELSE now() END,
    cause = excluded.cause, remedy = excluded.remedy, loss = excluded.loss;

-- name: clear
DELETE FROM rollup_engine.halts WHERE app_id = $1 AND stage = $2 AND source = $3;

-- name: forget_others
-- Of topics that nobody works on any more.
DELETE FROM rollup_engine.halts WHERE app_id = $1 AND NOT regexp_replace(source, '/[0-9]+$', '') = ANY ($2::text[]);

-- name: halts
SELECT stage, source, cause, remedy, loss, since FROM rollup_engine.halts WHERE app_id = $1 ORDER BY since, stage, source;

-- name: accept
-- An operator gives up what a halted partition has lost. No row: nothing that could be given up.
INSERT INTO rollup_engine.accepted_losses (app_id, stage, source, loss, cause)
SELECT app_id, stage, source, loss, cause FROM rollup_engine.halts
WHERE app_id = $1 AND stage = $2 AND source = $3 AND loss = $4
ON CONFLICT (app_id, stage, source, loss) DO UPDATE SET cause = excluded.cause
RETURNING loss;
