-- name: forget
-- What an attempt that broke off has left.
DELETE FROM restore_seen;

-- name: has
-- What the database has of an entity.
SELECT restore_has($1);

-- name: take
-- Events of the stream.
SELECT restore_take($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- name: replaying
-- This transaction tells nobody.
SELECT set_config('tally.replaying', 'on', true);

-- name: delete
-- What the stream knows as deleted: one, or all of an entity.
SELECT restore_delete($1, $2);

-- name: upsert
-- What the stream knows better: one, or all of an entity.
SELECT restore_upsert($1, $2);

-- name: fresh
-- What the stream knows better, to be taken one by one.
SELECT entity, subject, deleted FROM restore_seen WHERE fresh AND entity = ANY ($1);

-- name: conflict
-- It can't be had: something else of this database stands in its place.
INSERT INTO restore_item (restore, kind, entity, subject, detail)
SELECT r.id, 'entity-conflict', $1, $2, $3 FROM restore r WHERE r.ended_at IS NULL;

-- name: greatest
-- The latest life that anybody has heard of.
SELECT inc FROM (SELECT s.inc FROM restore_seen s UNION ALL SELECT i.inc FROM incarnation i) lives
ORDER BY inc DESC LIMIT 1;

-- name: live
-- A new life begins: changes are taken again.
UPDATE incarnation SET inc = $1, restoring = false;

-- name: keep
-- What the stream knew better, to be told again if the stream is lost.
SELECT restore_keep($1);

-- name: retell
-- What the stream does not know.
SELECT restore_retell($1);

-- name: caught_up
-- The entities are as they were.
UPDATE restore SET caught_up_at = clock_timestamp() WHERE ended_at IS NULL;
