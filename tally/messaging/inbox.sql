-- name: enrol
-- A consumer begins at the beginning.
INSERT INTO inbox_cursor (consumer) VALUES ($1) ON CONFLICT DO NOTHING;

-- name: position
-- How far a consumer is, on which message, and how much it had to set aside.
SELECT c.stream, c.sequence, c.message, (SELECT count(*) FROM inbox_parked p WHERE p.consumer = c.consumer) AS parked
FROM inbox_cursor c WHERE c.consumer = $1;

-- name: advance
-- Moves the cursor, and locks it, if it is where the caller believes it to be.
UPDATE inbox_cursor SET sequence = $4, message = $5, at = now()
WHERE consumer = $1 AND stream = $2 AND sequence = $3
RETURNING sequence;

-- name: lock
-- Keeps the consumer from applying anything meanwhile.
SELECT sequence FROM inbox_cursor WHERE consumer = $1 FOR UPDATE;

-- name: adopt
-- Another stream: it is read from its beginning.
UPDATE inbox_cursor SET stream = $2, sequence = 0, message = NULL, at = now() WHERE consumer = $1;

-- name: renumber
-- What is parked from an earlier stream keeps its order, and comes before all of the new one. The shift is larger than
-- the range, so that no number is taken twice on the way.
UPDATE inbox_parked p SET sequence = p.sequence - s.shift
FROM (SELECT greatest(max(sequence), max(sequence) - min(sequence)) + 1 AS shift FROM inbox_parked WHERE consumer = $1) s
WHERE p.consumer = $1;

-- name: known
-- The newest state applied of each subject, and whether something of it is parked.
SELECT w.entity, w.subject, v.inc, v.version, EXISTS (
    SELECT FROM inbox_parked p WHERE p.consumer = $1 AND p.entity = w.entity AND p.subject = w.subject
) AS parked
FROM unnest($2::text[], $3::uuid[]) AS w (entity, subject)
LEFT JOIN inbox_version v ON v.consumer = $1 AND v.entity = w.entity AND v.subject = w.subject;

-- name: remember
-- The newest state of each subject; each is named once.
INSERT INTO inbox_version AS v (consumer, entity, subject, inc, version, deleted)
SELECT $1, * FROM unnest($2::text[], $3::uuid[], $4::uuid[], $5::bigint[], $6::boolean[])
ON CONFLICT (consumer, entity, subject) DO UPDATE
SET inc = excluded.inc, version = excluded.version, deleted = excluded.deleted;

-- name: see
-- Of these events, those that were not seen before.
INSERT INTO inbox_event (consumer, id) SELECT $1, * FROM unnest($2::uuid[]) ON CONFLICT DO NOTHING RETURNING id;

-- name: forget
-- Events that cannot be published again any more: the outboxes have dropped them.
DELETE FROM inbox_event e WHERE e.ctid = ANY (ARRAY (
    SELECT o.ctid FROM inbox_event o WHERE o.at < now() - $1::interval LIMIT 1000
));

-- name: park
-- Set aside.
INSERT INTO inbox_parked (consumer, sequence, entity, subject, body, reason, attempts)
SELECT $1, * FROM unnest($2::bigint[], $3::text[], $4::uuid[], $5::bytea[], $6::text[], $7::int[])
ON CONFLICT DO NOTHING;

-- name: parked
-- What is set aside, in the order of the stream.
SELECT sequence, entity, subject, body, reason, attempts, at FROM inbox_parked
WHERE consumer = $1 AND sequence > $2 ORDER BY sequence LIMIT $3;


-- name: subject
-- What a parked message is about.
SELECT entity, subject FROM inbox_parked WHERE consumer = $1 AND sequence = $2;

-- name: oldest
-- The oldest of what is parked of a subject, and how many there are.
SELECT min(sequence) AS sequence, count(*) AS waiting FROM inbox_parked
WHERE consumer = $1 AND entity = $2 AND subject = $3;

-- name: taken
-- One message that is parked, locked.
SELECT body FROM inbox_parked WHERE consumer = $1 AND sequence = $2 FOR UPDATE;

-- name: failed_again
-- A retry did not help.
UPDATE inbox_parked SET reason = $3, attempts = attempts + 1 WHERE consumer = $1 AND sequence = $2;

-- name: drop
-- Given up.
DELETE FROM inbox_parked WHERE consumer = $1 AND sequence = $2;
