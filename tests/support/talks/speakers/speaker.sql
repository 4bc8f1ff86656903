-- name: insert
-- A new speaker.
INSERT INTO speaker (id, full_name) VALUES ($1, $2) RETURNING *;

-- name: get
-- One speaker.
SELECT * FROM speaker WHERE id = $1;

-- name: lock
-- One speaker, held against change and deletion.
SELECT * FROM speaker WHERE id = $1 FOR NO KEY UPDATE;

-- name: page
-- Speakers in the order of their ids.
SELECT * FROM speaker WHERE id > $1 ORDER BY id LIMIT $2;

-- name: update
-- A changed speaker.
UPDATE speaker SET full_name = $2, version = version + 1 WHERE id = $1 RETURNING *;

-- name: delete
-- Its talks' halves are released by the half table's own trigger.
DELETE FROM speaker WHERE id = $1;
