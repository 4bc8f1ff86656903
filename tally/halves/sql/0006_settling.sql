-- On the right side: RECORD goes on while an epoch is confirmed. An epoch may hold ten thousand operations, and their
-- events take a while to write (80 ms for five thousand); under the exclusive lock, as in 0003, nobody recorded meanwhile.
--
-- RECORD writes what is later than closed, and reads nothing that SETTLE writes. KILL and CANCEL read the settled mark,
-- for whoever ends what was confirmed tells of it: they are kept apart from SETTLE by a second lock. All others that
-- read that mark or end halves (CLOSE, REJOIN, a deletion, a restore) have the first one exclusively.
-- The first lock is always taken first, and before any row.
--
-- SETTLE has another name than in 0003: services of the version before, which go on while they are replaced, settle
-- under the exclusive lock. A KILL of theirs that has begun already has not taken the second one.

CREATE FUNCTION {name}_confirm(
    since bigint, upto bigint, expected_inc uuid, matched uuid[],
    OUT applied boolean, OUT confirmed bigint, OUT settled bigint, OUT restoring boolean
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    PERFORM pg_advisory_xact_lock({settling});
    confirmed := 0;
    UPDATE {name}_mark m SET settled = upto
    WHERE m.settled = since AND m.settled < upto AND m.inc = expected_inc AND NOT m.restoring;
    applied := FOUND;
    IF applied THEN
        INSERT INTO outbox (type, subject, version, inc, data, trace, actor)
        SELECT '{name}.confirmed', h.op, 1, expected_inc,
               json_build_object('operation', h.op, '{left}', h.{left}, '{right}', h.{right}), h.trace, h.actor
        FROM {name}_half h WHERE h.op = ANY (matched) AND h.st::text = 'L' ORDER BY h.op;
        GET DIAGNOSTICS confirmed = ROW_COUNT;
    END IF;
    SELECT m.settled, m.restoring INTO settled, restoring FROM {name}_mark m;
END $$;

-- KILL and CANCEL, as in 0002 but for the second lock.
CREATE OR REPLACE FUNCTION {name}_end(
    ops uuid[], incs uuid[], status "char", reason text,
    OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT ords bigint[], OUT whys text[], OUT others uuid[]
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    closed_op uuid;
    settled_op uuid;
    fresh uuid[];
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    PERFORM pg_advisory_xact_lock_shared({settling});
    SELECT m.inc, m.peer_inc, m.closed, m.restoring, {name}_last_op(m.closed), {name}_last_op(m.settled),
           ARRAY (SELECT i.op FROM unnest(ops, incs) AS i (op, inc) WHERE incs IS NULL OR i.inc = m.peer_inc)
    INTO inc, peer_inc, closed, restoring, closed_op, settled_op, fresh FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    --seats-- -- Seats before halves, as RECORD does: the other order deadlocks with it.
    --seats-- PERFORM 1 FROM (
    --seats--     SELECT DISTINCT h.live_{right} AS id FROM {name}_half h WHERE h.op = ANY (fresh) ORDER BY 1
    --seats-- ) k CROSS JOIN LATERAL (SELECT FROM {name}_seat s WHERE s.{right} = k.id FOR UPDATE) s;
    WITH item AS (
        SELECT i.ord, i.op, i.op = ANY (fresh) AS fresh FROM unnest(ops) WITH ORDINALITY AS i (op, ord)
    ), locked AS (
        SELECT h.op FROM {name}_half h WHERE h.op = ANY (fresh) AND h.st::text = 'L' ORDER BY h.op FOR UPDATE
    ), ended AS (
        UPDATE {name}_half h SET st = status, why = reason
        WHERE h.op = ANY (ARRAY (SELECT l.op FROM locked l)) AND h.st::text = 'L'
        RETURNING h.op, h.{left} AS l, h.{right} AS r
        --right-- , h.trace
    ), fenced AS (
        INSERT INTO {name}_half (op, st, why)
        SELECT i.op, 'V', reason FROM item i
        WHERE i.fresh AND i.op > closed_op AND (SELECT h.op FROM {name}_half h WHERE h.op = i.op) IS NULL
        ORDER BY i.op
        ON CONFLICT DO NOTHING
        RETURNING op
    --seats-- ), freed AS (
    --seats--     UPDATE {name}_seat s SET taken = s.taken - cardinality(array_positions(e.rs, s.{right}))
    --seats--     FROM (SELECT array_agg(r) AS rs FROM ended) e WHERE s.{right} = ANY (e.rs)
    --right-- ), told AS (
    --right--     -- What was confirmed must be seen to end, in the transaction that ends it.
    --right--     INSERT INTO outbox (type, subject, version, inc, data, trace)
    --right--     SELECT '{name}.cancelled', e.op, 2, m.inc,
    --right--            json_build_object('operation', e.op, '{left}', e.l, '{right}', e.r, 'reason', reason), e.trace
    --right--     FROM ended e, {name}_mark m WHERE e.op <= settled_op
    )
    SELECT array_agg(i.ord),
           array_agg(CASE
               WHEN NOT i.fresh THEN 'stale'
               WHEN e.op IS NOT NULL OR f.op IS NOT NULL THEN reason
               WHEN h.st IN ('V', 'C') THEN h.why
               WHEN h.op IS NULL AND i.op <= closed_op THEN 'too-late'
               ELSE 'conflict' END),
           array_agg(h.other)
    INTO ords, whys, others
    FROM item i
    LEFT JOIN ended e ON e.op = i.op
    LEFT JOIN fenced f ON f.op = i.op
    LEFT JOIN LATERAL (SELECT h.op, h.st, h.why, h.other FROM {name}_half h WHERE h.op = i.op LIMIT 1) h ON true;
END $$;
