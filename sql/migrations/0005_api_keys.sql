-- Who may ask the API for what. A key itself is kept nowhere: `hash` is the SHA-256 of it.
CREATE TABLE rollup_engine.api_keys (
    id                   text        PRIMARY KEY,  -- part of the key, and no secret
    app_id               text        NOT NULL,
    name                 text        NOT NULL,
    hash                 bytea       NOT NULL,
    scopes               text[]      NOT NULL CHECK (scopes <> '{}' AND scopes <@ ARRAY['read', 'query', 'ingest', 'admin']),
    external_customer_id text,                     -- null: of all customers
    created_at           timestamptz NOT NULL DEFAULT now(),
    revoked_at           timestamptz
);
-- A name stands for one key at a time, so that it can be revoked by it.
CREATE UNIQUE INDEX api_keys_by_name ON rollup_engine.api_keys (app_id, name) WHERE revoked_at IS NULL;
