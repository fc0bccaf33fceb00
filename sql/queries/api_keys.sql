-- name: create
INSERT INTO rollup_engine.api_keys (id, app_id, name, hash, scopes, external_customer_id)
VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (app_id, name) WHERE revoked_at IS NULL DO NOTHING RETURNING id;

-- name: keys
SELECT id, name, scopes, external_customer_id AS customer, created_at, revoked_at
FROM rollup_engine.api_keys WHERE app_id = $1 ORDER BY created_at, id;

-- name: revoke
-- By name or id. No row: there is no such key, or it has been revoked before.
UPDATE rollup_engine.api_keys SET revoked_at = now()
WHERE app_id = $1 AND revoked_at IS NULL AND (name = $2 OR id = $2) RETURNING id, name;

-- name: find
SELECT id, name, scopes, external_customer_id AS customer, created_at, revoked_at, hash
FROM rollup_engine.api_keys WHERE app_id = $1 AND id = $2 AND revoked_at IS NULL;
