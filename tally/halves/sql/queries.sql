-- name: record
-- One transaction, one round trip: see 0002_functions.sql.
SELECT * FROM {name}_record($1, $2, $3, $4, $5, $6);

-- name: resolve
-- Fences what is absent.
SELECT * FROM {name}_resolve($1);

-- name: kill
-- Rests on the word of the peer's incarnation beside each operation.
SELECT * FROM {name}_end($1, $2, 'V', 'killed');

-- name: cancel
-- A user's request; the row stays C until the peer is known to know.
SELECT * FROM {name}_end($1, NULL, 'C', 'cancelled');

-- name: ack
-- The peer knows.
SELECT * FROM {name}_ack($1, $2);

-- name: close
-- Waits for the records in flight; the statement timeout bounds the wait.
SELECT * FROM {name}_close($1, $2, $3, $4);

-- name: settle
-- The right side only.
SELECT * FROM {name}_confirm($1, $2, $3, $4);

-- name: forward
-- What the peer is not yet known to know.
SELECT * FROM {name}_forward($1);

-- name: rejoin
-- The peer was restored.
SELECT * FROM {name}_rejoin($1);

-- name: status
-- In the order asked.
SELECT * FROM {name}_status($1);

-- name: find
-- In the order asked.
SELECT * FROM {name}_find($1, $2);

--seats-- -- name: seats
--seats-- -- Those taken and those there are, for the metrics.
--seats-- SELECT coalesce(sum(s.taken), 0)::bigint AS taken, coalesce(sum(s.capacity), 0)::bigint AS capacity FROM {name}_seat s;
--seats--
--right-- -- name: causes
--right-- -- The traces of the requests that created some operations, where somebody records them.
--right-- SELECT DISTINCT h.trace FROM {name}_half h WHERE h.op = ANY ($1) AND h.trace IS NOT NULL LIMIT $2;
--right--
--right-- -- name: voided
--right-- -- The settler tells of lone halves that it has voided, each once.
--right-- INSERT INTO outbox (id, type, subject, version, inc, data, trace, actor)
--right-- SELECT v.id, 'operation.voided', v.op, $3, '00000000-0000-0000-0000-000000000000',
--right--        json_build_object('operation', v.op, 'side', $4::text), h.trace, h.actor
--right-- FROM unnest($1::uuid[], $2::uuid[]) AS v(id, op) LEFT JOIN {name}_half h ON h.op = v.op
--right-- ON CONFLICT (id) DO NOTHING;
--right--
-- name: mark
-- This side's state.
SELECT m.inc, m.peer_inc, m.closed, m.settled, m.restoring FROM {name}_mark m;

-- name: pend
-- The incarnation that is announced to the peer next. No row: this side isn't restoring.
UPDATE {name}_mark SET pending = $1 WHERE restoring RETURNING pending;

-- name: reconcile
-- The peer's answer to REJOIN: see 0005_restore.sql.
SELECT * FROM {name}_reconcile($1, $2, $3, $4, $5, $6);

-- name: list_own
-- One row per list, in the order asked.
SELECT * FROM {name}_list_own($1, $2, $3);

-- name: list_peer
-- One row per list, in the order asked.
SELECT * FROM {name}_list_peer($1, $2, $3);
--shadow--
--shadow-- -- name: shadow
--shadow-- -- The copies of some entities of the peer.
--shadow-- SELECT s.id::text AS id, s.card::text AS card FROM shadow_{other}_card s WHERE s.id = ANY ($1);
