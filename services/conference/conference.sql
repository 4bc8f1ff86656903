-- name: insert
-- A new conference.
INSERT INTO conference (id, acronym, name) VALUES ($1, $2, $3) RETURNING *;

-- name: get
-- One conference.
SELECT * FROM conference WHERE id = $1;

-- name: lock
-- One conference, held against change and deletion.
SELECT * FROM conference WHERE id = $1 FOR NO KEY UPDATE;

-- name: page
-- Conferences in the order of their ids.
SELECT * FROM conference WHERE id > $1 ORDER BY id LIMIT $2;

-- name: update
-- A changed conference.
UPDATE conference SET acronym = $2, name = $3, version = version + 1 WHERE id = $1 RETURNING *;

-- name: takes
-- The events that go with a conference, if $2; at most $3.
SELECT id FROM event WHERE conference_id = $1 AND $2 LIMIT $3;

-- name: delete
-- With its events, if $2: their halves are released by the half table's own trigger.
WITH gone AS (DELETE FROM event WHERE conference_id = $1 AND $2)
DELETE FROM conference WHERE id = $1;
