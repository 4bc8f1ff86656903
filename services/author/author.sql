-- name: insert
-- A new author.
INSERT INTO author (id, full_name, email) VALUES ($1, $2, $3) RETURNING *;

-- name: get
-- One author.
SELECT * FROM author WHERE id = $1;

-- name: lock
-- One author, held against change and deletion. RECORD looks at it through a foreign key only.
SELECT * FROM author WHERE id = $1 FOR NO KEY UPDATE;

-- name: page
-- Authors in the order of their ids.
SELECT * FROM author WHERE id > $1 ORDER BY id LIMIT $2;

-- name: update
-- A changed author.
UPDATE author SET full_name = $2, email = $3, version = version + 1 WHERE id = $1 RETURNING *;

-- name: delete
-- The halves of the author's attendances are released by the half table's own trigger.
DELETE FROM author WHERE id = $1;
