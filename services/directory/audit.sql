-- name: head
-- Where the chain ends; held until the end of the transaction, so that one appends at a time.
SELECT seq, hash FROM audit_head FOR UPDATE;

-- name: known
-- Of these events, those that are in the trail.
SELECT DISTINCT event_id FROM audit WHERE event_id = ANY ($1::uuid[]);

-- name: append
-- Rows at its end.
INSERT INTO audit (seq, sequence, at, actor, type, entity, subject, version, event_id, source, trace, data, hash)
SELECT * FROM unnest(
    $1::bigint[], $2::bigint[], $3::timestamptz[], $4::text[], $5::text[], $6::text[], $7::uuid[], $8::bigint[],
    $9::uuid[], $10::text[], $11::text[], $12::text[], $13::bytea[]
);

-- name: move
-- Where it ends now.
UPDATE audit_head SET seq = $1, hash = $2;

-- name: walk
-- Rows in their order, from behind $1 on.
SELECT * FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2;

-- name: ends
-- Where it should end.
SELECT seq, hash FROM audit_head;

-- name: hash_of
-- One row's hash.
SELECT hash FROM audit WHERE seq = $1;

-- name: page
-- What was done, in order: to an entity of kind $3, to entity $4, by actor $5, where those are given.
SELECT * FROM audit
WHERE seq > $1 AND ($3::text IS NULL OR entity = $3) AND ($4::uuid IS NULL OR subject = $4)
    AND ($5::text IS NULL OR actor = $5) ORDER BY seq LIMIT $2;

-- name: page_of_subject
-- The same for one entity, by its index.
SELECT * FROM audit
WHERE seq > $1 AND entity = $3 AND subject = $4 AND ($5::text IS NULL OR actor = $5) ORDER BY seq LIMIT $2;

-- name: page_of_actor
-- The same for one actor, by its index.
SELECT * FROM audit
WHERE seq > $1 AND actor = $5 AND ($3::text IS NULL OR entity = $3) AND ($4::uuid IS NULL OR subject = $4)
ORDER BY seq LIMIT $2;
