-- name: living
-- How much lives of some entities, counted no further than needed.
SELECT cardinality({{name}}_living($1, $2));

-- name: decide
-- From here on it is going to happen. Asked again, it is decided already.
INSERT INTO {{name}}_deletion (resource, id, cascade, trace, actor)
VALUES ($1, $2, $3, nullif(current_setting('tally.trace', true), ''), nullif(current_setting('tally.actor', true), ''))
ON CONFLICT DO NOTHING;

-- name: next
-- One that nobody is at; in no order, so that one that fails keeps none waiting. Not while the database is restored.
SELECT d.resource, d.id, d.cascade, d.trace, d.actor FROM {{name}}_deletion d
WHERE d.resource = ANY ($1)
AND NOT (SELECT m.restoring FROM {{name}}_mark m) AND NOT (SELECT i.restoring FROM incarnation i)
ORDER BY random() LIMIT 1 FOR UPDATE OF d SKIP LOCKED;

-- name: origin
-- Who asked, for the events of this transaction.
SELECT set_config('tally.trace', coalesce($1, ''), true), set_config('tally.actor', coalesce($2, ''), true);

-- name: end_part
-- What a CANCEL of some of what lives does; only the reason is another.
SELECT e.inc FROM {{name}}_end({{name}}_living($1, $2), NULL, 'C', 'deleted') e;

-- name: lock_part
-- Locked before they are deleted, as by requests.
SELECT FROM {{own}} WHERE id = ANY ($1) ORDER BY id FOR NO KEY UPDATE;

-- name: delete_part
-- With what still lives of them.
DELETE FROM {{own}} WHERE id = ANY ($1);

-- name: done
-- In the transaction that deletes the entity.
DELETE FROM {{name}}_deletion WHERE resource = $1 AND id = $2;
