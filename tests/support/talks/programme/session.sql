-- name: insert
-- A new session.
INSERT INTO session (id, title) VALUES ($1, $2) RETURNING *;

-- name: get
-- One session.
SELECT * FROM session WHERE id = $1;

-- name: lock
-- One session, held against change and deletion.
SELECT * FROM session WHERE id = $1 FOR NO KEY UPDATE;

-- name: page
-- Sessions in the order of their ids.
SELECT * FROM session WHERE id > $1 ORDER BY id LIMIT $2;

-- name: update
-- A changed session.
UPDATE session SET title = $2, version = version + 1 WHERE id = $1 RETURNING *;

-- name: delete
-- Its talks' halves are released by the half table's own trigger.
DELETE FROM session WHERE id = $1;
