-- What the engine knows: whose YAML is active, how far each stage is, the books, the dead letters.
CREATE SCHEMA IF NOT EXISTS rollups;
CREATE SCHEMA IF NOT EXISTS rollup_engine;

-- One YAML content of an app id. Every packed record names its generation.
CREATE TABLE rollup_engine.generations (
    app_id     text        NOT NULL,
    generation integer     NOT NULL,
    digest     text        NOT NULL,
    config     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_id, generation)
);

-- Who runs now, and under which generation. One YAML at a time is active per app id.
CREATE TABLE rollup_engine.leases (
    app_id     text        NOT NULL,
    holder     uuid        NOT NULL,
    generation integer     NOT NULL,
    what       text        NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (app_id, holder)
);

-- Internal topics, each with the life it is in: a position means something only within one.
CREATE TABLE rollup_engine.topics (
    app_id      text    NOT NULL,
    topic       text    NOT NULL,
    incarnation text    NOT NULL,
    partitions  integer NOT NULL,
    PRIMARY KEY (app_id, topic)
);

-- Rule 2: the authority on positions. One row per stage and input partition, fenced by epoch and version.
CREATE TABLE rollup_engine.progress (
    app_id       text        NOT NULL,
    stage        text        NOT NULL,
    source       text        NOT NULL,
    epoch        bigint      NOT NULL,
    version      bigint      NOT NULL,
    next_offset  bigint      NOT NULL,
    first_offset bigint      NOT NULL,
    state        jsonb       NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_id, stage, source)
) WITH (fillfactor = 50);

-- The books: what every raw record came to. `judge` is the events partition that booked it, so that no two
-- transactions wait for one row. `records` counts distinct raw records, to check against route's position.
CREATE TABLE rollup_engine.books (
    app_id      text   NOT NULL,
    event       text   NOT NULL,
    source      text   NOT NULL,
    judge       text   NOT NULL,
    counted     bigint NOT NULL,
    duplicate   bigint NOT NULL,
    conflicting bigint NOT NULL,
    late        bigint NOT NULL,
    invalid     bigint NOT NULL,
    unmatched   bigint NOT NULL,
    records     bigint NOT NULL,
    PRIMARY KEY (app_id, event, source, judge)
) WITH (fillfactor = 50);

-- Every raw record that is neither counted nor a duplicate. `mapped`: the values the YAML maps, where readable.
-- `original` null: still in the raw topic at source and source_offset, for as long as that keeps it.
CREATE TABLE rollup_engine.dead_letters (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id          text        NOT NULL,
    event           text        NOT NULL,
    source          text        NOT NULL,
    source_offset   bigint      NOT NULL,
    recorded_at     timestamptz NOT NULL,
    outcome         text        NOT NULL,
    reason          text        NOT NULL,
    detail          text        NOT NULL,
    event_id        text,
    mapped          jsonb,
    original        bytea,
    original_bytes  bigint,
    original_sha256 text,
    created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX dead_letters_by_event ON rollup_engine.dead_letters (app_id, event, id);

-- Tables of rollups, each owned by one app id, with every column ever declared, in order of declaration.
CREATE TABLE rollup_engine.rollups (
    table_name text        PRIMARY KEY,
    app_id     text        NOT NULL,
    name       text        NOT NULL,
    event      text        NOT NULL,
    window_ms  bigint      NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE rollup_engine.rollup_columns (
    table_name  text    NOT NULL REFERENCES rollup_engine.rollups,
    column_name text    NOT NULL,
    kind        text    NOT NULL CHECK (kind IN ('group', 'sum', 'min', 'max')),
    position    integer NOT NULL,
    PRIMARY KEY (table_name, column_name)
);

-- The Kafka an app id belongs to. Another cluster has other offsets.
CREATE TABLE rollup_engine.clusters (
    app_id     text PRIMARY KEY,
    cluster_id text NOT NULL
);
