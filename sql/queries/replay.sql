-- name: named
-- Locked in one order, so that two who name the same letters do not wait for each other for ever.
SELECT * FROM rollup_engine.dead_letters WHERE app_id = $1 AND id = ANY($2::bigint[]) ORDER BY id FOR UPDATE;

-- name: newest
SELECT coalesce(max(id), 0) FROM rollup_engine.dead_letters WHERE app_id = $1;

-- name: next
-- Those that another replay has in hand are its to send.
SELECT * FROM rollup_engine.dead_letters
WHERE app_id = $1 AND id > $2 AND id <= $3 AND replayed_at IS NULL
    AND ($4::text IS NULL OR event = $4) AND ($5::text IS NULL OR reason = $5 OR outcome = $5)
ORDER BY id LIMIT $6 FOR UPDATE SKIP LOCKED;

-- name: replayed
UPDATE rollup_engine.dead_letters AS letter SET replayed_at = now(), replayed_to = sent.place
FROM unnest($1::bigint[], $2::text[]) AS sent (id, place) WHERE letter.id = sent.id;
