-- name: standing
-- Where the database lived when it was last looked at, where it lives, and what it is in the middle of.
SELECT i.home, tally_home() AS here, i.restoring AS catching_up, m.restoring, m.inc, m.peer_inc, m.closed, m.settled,
       pg_current_wal_flush_lsn() AS flushed
FROM incarnation i, {{name}}_mark m;

-- name: move_in
-- It serves for the first time.
UPDATE incarnation SET home = tally_home() WHERE home IS NULL;

-- name: begin
-- It is an old copy of itself.
SELECT {{name}}_restore($1);

-- name: open
-- What is under way.
SELECT r.id, r.caught_up_at, r.skipped FROM restore r WHERE r.ended_at IS NULL;

-- name: skip
-- An operator goes on without it.
UPDATE restore SET skipped = array_append(array_remove(skipped, $1), $1) WHERE ended_at IS NULL;

-- name: stand
-- Taken as it is; the peer will rejoin.
SELECT {{name}}_stand($1);

-- name: lead
-- One process restores.
SELECT pg_try_advisory_lock({{lock}});

-- name: life
-- The life that entities are told in.
SELECT i.inc FROM incarnation i;

-- name: told
-- Whether this database has told this event, or is about to tell a later one of its subject.
SELECT EXISTS (SELECT FROM outbox o WHERE o.id = $1) OR EXISTS (
    SELECT FROM outbox o
    WHERE o.published_at IS NULL AND o.subject = $2 AND split_part(o.type, '.', 1) = $3 AND (o.inc, o.version) >= ($4, $5)
);

-- name: knows_operation
-- Whether it knows that the operation was confirmed, or that it ended.
SELECT CASE WHEN $2 THEN NOT EXISTS (SELECT FROM {{name}}_half h WHERE h.op = $1 AND h.st = 'L')
            ELSE $1 <= {{name}}_last_op(m.settled) END
FROM {{name}}_mark m;

-- name: reports
-- The latest restores, and how much of what kind they did.
SELECT r.id, r.reason, r.begun_at, r.caught_up_at, r.ended_at, r.skipped, (
    SELECT coalesce(json_object_agg(c.kind, c.count), '{}') FROM (
        SELECT i.kind, count(*) AS count FROM restore_item i WHERE i.restore = r.id GROUP BY i.kind
    ) c
) AS counts
FROM restore r ORDER BY r.seq DESC LIMIT $1;

-- name: losses
-- What a restore could not bring back, and what it ended.
SELECT i.kind, i.entity, i.subject, i.detail FROM restore_item i
WHERE i.restore = $1 AND i.kind = ANY ($2) ORDER BY i.kind, i.subject LIMIT $3;
