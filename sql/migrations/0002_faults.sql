-- What stands still and why, what was given up on purpose, and what was sent again.

-- Partitions that halted, for whoever asks; gone once they go on.
CREATE TABLE rollup_engine.halts (
    app_id     text        NOT NULL,
    stage      text        NOT NULL,
    source     text        NOT NULL,
    cause      text        NOT NULL,
    remedy     text        NOT NULL,
    loss       text,       -- names exactly what would be given up by going on; null where nothing can be
    since      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_id, stage, source)
);

-- Losses that an operator has accepted: the gap stays in the books.
CREATE TABLE rollup_engine.accepted_losses (
    app_id      text        NOT NULL,
    stage       text        NOT NULL,
    source      text        NOT NULL,
    loss        text        NOT NULL,
    cause       text        NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (app_id, stage, source, loss)
);

-- Once per letter: when it was sent again, and to where.
ALTER TABLE rollup_engine.dead_letters ADD COLUMN replayed_at timestamptz, ADD COLUMN replayed_to text;

-- From when on a rollup counts everything: null for one that was there from the first event on.
ALTER TABLE rollup_engine.rollups ADD COLUMN complete_from timestamptz;
