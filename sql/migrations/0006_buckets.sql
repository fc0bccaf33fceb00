-- Buckets read as logs: which objects there are, in the order in which they were listed, and what came of each.

-- `topic` is what the bucket is called as a raw topic. The row is locked by whoever gives out numbers.
CREATE TABLE rollup_engine.buckets (
    id             integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    app_id         text        NOT NULL,
    topic          text        NOT NULL,
    url            text        NOT NULL,
    format         text        NOT NULL,
    objects        bigint      NOT NULL DEFAULT 0,  -- so many are known: numbers 0 to this - 1, without gaps
    seen_ms        bigint      NOT NULL DEFAULT 0,  -- of the last of them
    lister         text,                            -- who lists it, and until when nobody else does
    lister_until   timestamptz,
    wanted_at      timestamptz NOT NULL DEFAULT now(),  -- somebody started then, who has to know what is there
    listed_at      timestamptz,                     -- all that was there then is known: a complete listing has ended
    listing_ms     bigint      NOT NULL DEFAULT 0,  -- how long that took
    refusal_cause  text,                            -- why the store refuses to be listed
    refusal_remedy text,
    UNIQUE (app_id, topic)
) WITH (fillfactor = 50);

-- One row per object. A reader's position says which numbers are done, so nothing here is searched for by state.
-- `outcome`: null while it waits or is being read. `read`; `damaged`: it breaks off, good rows counted; `changed`: it is
-- another by now, before it was read to its end or after; `gone`: before it was read to its end.
CREATE TABLE rollup_engine.objects (
    bucket      integer     NOT NULL REFERENCES rollup_engine.buckets,
    number      bigint      NOT NULL,
    name        text        COLLATE "C" NOT NULL,  -- in the order of a listing
    etag        text        NOT NULL,              -- at which it is read; of what is not begun, the latest listed
    size        bigint      NOT NULL,
    seen_ms     bigint      NOT NULL,              -- when it was first listed; rises with the number
    begun       boolean     NOT NULL DEFAULT false,
    rows        bigint,
    outcome     text        CHECK (outcome IN ('read', 'damaged', 'changed', 'gone')),
    note        text        NOT NULL DEFAULT '',
    now_etag    text,                              -- of what was read and changed after that: as listed since
    accepted_at timestamptz,                       -- somebody has seen to the problem
    PRIMARY KEY (bucket, number),
    UNIQUE (bucket, name)
) WITH (fillfactor = 80);
CREATE INDEX objects_problems ON rollup_engine.objects (bucket, number)
    WHERE outcome IN ('damaged', 'changed', 'gone') AND accepted_at IS NULL;
CREATE INDEX objects_waiting ON rollup_engine.objects (bucket, number) WHERE outcome IS NULL;

-- Dead letters of an object, and how many.
CREATE INDEX dead_letters_of_buckets ON rollup_engine.dead_letters (app_id, source, source_offset)
    WHERE source LIKE 'bucket.%';
