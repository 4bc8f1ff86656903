-- The participant's messages as functions, so that each is one transaction in one round trip.
-- tally.protocol.participant is the specification; the conformance suite compares the two reply by reply.
--
-- Each takes its lock in a statement of its own, before it reads: at READ COMMITTED the statements of a
-- volatile function see what was committed when they begin, and CLOSE must list what it waited for.
-- An operation's time is the first 48 bits of its id, so "its time is at most T" is "op <= last op of T".
--
-- The functions are planned once per connection, maybe while the tables are nearly empty, so they are written to have no
-- choice: where rows are found by their operations, the status is compared as text, and no partial index fits; look-ups
-- are LATERAL ... LIMIT 1 or = ANY (array), never joins. Otherwise a plan that reads all of a small index would go
-- on reading all of it while it grows, until the next ANALYZE. The test of the plans counts the rows.

-- The greatest id that an operation of this millisecond can have.
CREATE FUNCTION {name}_last_op(ms bigint) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT (lpad(to_hex(ms), 12, '0') || 'ffffffffffffffffffff')::uuid $$;

-- The millisecond of an operation.
CREATE FUNCTION {name}_time(op uuid) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS
$$ SELECT ('x' || left(replace(op::text, '-', ''), 12))::bit(48)::bigint $$;

-- RECORD a batch of distinct operations with distinct pairs. Answers only for what was not recorded:
-- position, reason, and the operation that has the pair. The reason 'conflict' means that another
-- transaction was faster, and that the item must be sent again to see what it wrote.
--
-- Nearly always all can be recorded: that is one INSERT, whose conflicts find what stands in the way. Only if
-- something does, the batch is looked at item by item; what the INSERT recorded is then found recorded.
CREATE FUNCTION {name}_record(
    ops uuid[], lefts uuid[], rights uuid[], early_ms bigint, traces text[], actors text[],
    OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT ords bigint[], OUT whys text[], OUT others uuid[]
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    closed_op uuid;
    early_op uuid := {name}_last_op(early_ms);
    known uuid[];
    --seats-- scarce uuid[];
    recorded bigint;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    SELECT m.inc, m.peer_inc, m.closed, m.restoring, ARRAY (SELECT e.id FROM {own} e WHERE e.id = ANY ({owns}))
    INTO inc, peer_inc, closed, restoring, known FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    closed_op := {name}_last_op(closed);
    --seats-- -- After the entities: the seats of one that appears in between would be neither locked nor counted.
    --seats-- -- Scarce are seats of which this batch may want more than there are.
    --seats-- SELECT array_agg(s.{right}) FILTER (WHERE s.free < cardinality(ops)
    --seats--                                     AND s.free < cardinality(array_positions(rights, s.{right})))
    --seats-- INTO scarce FROM (SELECT k.id FROM unnest(known) AS k (id) ORDER BY k.id) k
    --seats-- CROSS JOIN LATERAL (
    --seats--     SELECT s.{right}, s.capacity - s.taken AS free FROM {name}_seat s WHERE s.{right} = k.id FOR UPDATE
    --seats-- ) s;
    --seats-- WITH written AS (
    --left-- INSERT INTO {name}_half (op, {left}, {right}, st)
    --left-- SELECT i.op, i.l, i.r, 'L' FROM unnest(ops, lefts, rights) AS i (op, l, r)
    --right-- INSERT INTO {name}_half (op, {left}, {right}, st, trace, actor)
    --right-- SELECT i.op, i.l, i.r, 'L', i.trace, i.actor
    --right-- FROM unnest(ops, lefts, rights, traces, actors) AS i (op, l, r, trace, actor)
    WHERE i.op > closed_op AND i.op <= early_op AND i.{own_column} = ANY (known)
    --seats--     AND (scarce IS NULL OR i.r <> ALL (scarce))
    ORDER BY i.l, i.r
    ON CONFLICT DO NOTHING
    --no-seats-- ;
    --no-seats-- GET DIAGNOSTICS recorded = ROW_COUNT;
    --seats-- RETURNING {right} AS r
    --seats-- ), seated AS (
    --seats--     UPDATE {name}_seat s SET taken = s.taken + cardinality(array_positions(w.rs, s.{right}))
    --seats--     FROM (SELECT array_agg(r) AS rs FROM written) w WHERE s.{right} = ANY (w.rs)
    --seats-- )
    --seats-- SELECT count(*) INTO recorded FROM written;
    IF recorded = cardinality(ops) THEN RETURN; END IF;

    WITH item AS (
        SELECT i.ord, i.op, i.l, i.r,
               h.op IS NULL AND i.op > closed_op AS open,
               CASE
                   WHEN h.st = 'L' THEN NULL
                   WHEN h.op IS NOT NULL THEN h.why
                   WHEN i.op <= closed_op THEN 'too-late'
                   WHEN i.op > early_op THEN 'too-early'
                   WHEN i.{own_column} <> ALL (known) THEN 'not-found'
                   WHEN p.op IS NOT NULL THEN 'taken'
               END AS why,
               CASE WHEN h.op IS NULL THEN p.op ELSE h.other END AS other
        FROM unnest(ops, lefts, rights) WITH ORDINALITY AS i (op, l, r, ord)
        LEFT JOIN LATERAL (SELECT h.op, h.st, h.why, h.other FROM {name}_half h WHERE h.op = i.op LIMIT 1) h ON true
        LEFT JOIN LATERAL (
            SELECT p.op FROM {name}_half p WHERE p.{left} = i.l AND p.{right} = i.r AND p.st = 'L' LIMIT 1
        ) p ON true
    ), decided AS (
        --no-seats-- SELECT i.ord, i.op, i.l, i.r, i.open, i.why, i.other FROM item i
        --seats-- SELECT i.ord, i.op, i.l, i.r, i.open, i.other,
        --seats--        CASE WHEN i.open AND i.why IS NULL AND s.taken + row_number() OVER (
        --seats--                      PARTITION BY i.r, i.open AND i.why IS NULL ORDER BY i.op) > s.capacity
        --seats--             THEN 'full' ELSE i.why END AS why
        --seats-- FROM item i
        --seats-- LEFT JOIN LATERAL (SELECT s.taken, s.capacity FROM {name}_seat s WHERE s.{right} = i.r LIMIT 1) s ON true
    ), written AS (
        INSERT INTO {name}_half (op, {left}, {right}, st, why, other
                                 --right-- , trace, actor
        ) SELECT d.op, d.l, d.r, CASE WHEN d.why IS NULL THEN 'L' ELSE 'V' END, d.why,
               CASE WHEN d.why = 'taken' THEN d.other END
               --right-- , traces[d.ord], actors[d.ord]
        FROM decided d WHERE d.open ORDER BY d.l, d.r
        ON CONFLICT DO NOTHING
        RETURNING op, {right} AS r, st
    --seats-- ), seated AS (
    --seats--     UPDATE {name}_seat s SET taken = s.taken + cardinality(array_positions(w.rs, s.{right}))
    --seats--     FROM (SELECT array_agg(r) AS rs FROM written WHERE st = 'L') w WHERE s.{right} = ANY (w.rs)
    )
    SELECT array_agg(d.ord),
           array_agg(CASE WHEN d.open AND w.op IS NULL THEN 'conflict' ELSE d.why END),
           array_agg(CASE WHEN d.why = 'taken' THEN d.other END)
    INTO ords, whys, others
    FROM decided d LEFT JOIN written w ON w.op = d.op
    WHERE d.why IS NOT NULL OR (d.open AND w.op IS NULL);
END $$;

-- RESOLVE: what became of these operations? The absent ones are fenced. Answers for all that are dead.
CREATE FUNCTION {name}_resolve(
    ops uuid[],
    OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT ords bigint[], OUT whys text[], OUT others uuid[]
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    closed_op uuid;
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    SELECT m.inc, m.peer_inc, m.closed, m.restoring INTO inc, peer_inc, closed, restoring FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    closed_op := {name}_last_op(closed);
    WITH item AS (
        SELECT i.ord, i.op, h.op IS NULL AND i.op > closed_op AS open, h.other,
               CASE WHEN h.st = 'L' THEN NULL WHEN h.op IS NOT NULL THEN h.why
                    WHEN i.op <= closed_op THEN 'too-late' ELSE 'resolved' END AS why
        FROM unnest(ops) WITH ORDINALITY AS i (op, ord)
        LEFT JOIN LATERAL (SELECT h.op, h.st, h.why, h.other FROM {name}_half h WHERE h.op = i.op LIMIT 1) h ON true
    ), written AS (
        INSERT INTO {name}_half (op, st, why) SELECT i.op, 'V', 'resolved' FROM item i WHERE i.open ORDER BY i.op
        ON CONFLICT DO NOTHING
        RETURNING op
    )
    SELECT array_agg(i.ord), array_agg(CASE WHEN i.open AND w.op IS NULL THEN 'conflict' ELSE i.why END),
           array_agg(i.other)
    INTO ords, whys, others
    FROM item i LEFT JOIN written w ON w.op = i.op
    WHERE i.why IS NOT NULL;
END $$;

-- KILL (incs given, status V) and CANCEL (no incs, status C): end what is live, fence what is absent.
-- Answers for all; the reason 'stale' means that the proof is from another incarnation of the peer.
CREATE FUNCTION {name}_end(
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

-- ACK: the peer, as the incarnation named, knows of these cancels; nothing is left to forward.
CREATE FUNCTION {name}_ack(
    ops uuid[], incs uuid[], OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    SELECT m.inc, m.peer_inc, m.closed, m.restoring INTO inc, peer_inc, closed, restoring FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    UPDATE {name}_half h SET st = 'V'
    WHERE h.st::text = 'C' AND h.op = ANY (ARRAY (SELECT i.op FROM unnest(ops, incs) AS i (op, inc) WHERE i.inc = peer_inc));
END $$;

-- CLOSE(T, S): nothing is born up to T any more; list what is live in (S, T], S being the own settled mark
-- where it is not given. A window of more than max_ops is cut at a whole millisecond (upto says where).
-- Void rows are dropped keep_ms after their epoch closed: without them the operation is dead as well.
CREATE FUNCTION {name}_close(
    INOUT upto bigint, since bigint, max_ops int, keep_ms bigint,
    OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT settled bigint, OUT restoring boolean, OUT live uuid[]
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
DECLARE
    settled_op uuid;
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {name}_mark m SET closed = upto WHERE m.closed < upto AND NOT m.restoring;
    SELECT m.inc, m.peer_inc, m.closed, m.settled, m.restoring INTO inc, peer_inc, closed, settled, restoring
    FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    settled_op := {name}_last_op(coalesce(since, settled));
    SELECT array_agg(w.op) INTO live FROM (
        SELECT h.op FROM {name}_half h
        WHERE h.op > settled_op AND h.op <= {name}_last_op(upto) AND h.st::text = 'L'
        ORDER BY h.op LIMIT max_ops + 1
    ) w;
    IF cardinality(live) > max_ops THEN
        -- At least the first millisecond is listed whole, or the window would never move.
        upto := greatest({name}_time(live[max_ops + 1]) - 1, {name}_time(live[1]));
        SELECT array_agg(h.op ORDER BY h.op) INTO live FROM {name}_half h
        WHERE h.op > settled_op AND h.op <= {name}_last_op(upto) AND h.st::text = 'L';
    END IF;
    DELETE FROM {name}_half h WHERE h.ctid = ANY (ARRAY (
        SELECT v.ctid FROM {name}_half v
        WHERE v.st = 'V' AND v.op <= {name}_last_op(greatest(closed - keep_ms, 0))
        LIMIT 10000
    ));
END $$;

-- The cancelled halves that the peer is not yet known to know: oldest first.
CREATE FUNCTION {name}_forward(
    max_ops int, OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean, OUT ops uuid[]
) LANGUAGE sql STABLE AS $$
    SELECT m.inc, m.peer_inc, m.closed, m.restoring, ARRAY (
        SELECT h.op FROM {name}_half h WHERE h.st = 'C' ORDER BY h.op LIMIT max_ops
    ) FROM {name}_mark m
$$;

-- REJOIN(inc): the peer was restored and is somebody else now; it gets all that is live here.
CREATE FUNCTION {name}_rejoin(
    new_inc uuid, OUT inc uuid, OUT closed bigint, OUT restoring boolean, OUT ops uuid[], OUT lefts uuid[], OUT rights uuid[]
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {name}_mark m SET peer_inc = new_inc WHERE NOT m.restoring;
    SELECT m.inc, m.closed, m.restoring INTO inc, closed, restoring FROM {name}_mark m;
    IF restoring THEN RETURN; END IF;
    SELECT array_agg(h.op), array_agg(h.{left}), array_agg(h.{right}) INTO ops, lefts, rights
    FROM (SELECT * FROM {name}_half h WHERE h.st = 'L' ORDER BY h.op) h;
END $$;

-- Reads: no lock, and one snapshot, so that the mark in the reply is the mark of what it says.

-- What is held for each operation, in the order asked.
CREATE FUNCTION {name}_status(
    asked uuid[], OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT rows text[], OUT whys text[], OUT lefts uuid[], OUT rights uuid[]
) LANGUAGE plpgsql STABLE {plans} AS $$
#variable_conflict use_column
BEGIN
    SELECT m.inc, m.peer_inc, m.closed, m.restoring INTO inc, peer_inc, closed, restoring FROM {name}_mark m;
    SELECT coalesce(array_agg(CASE WHEN h.st = 'L' THEN 'live' WHEN h.st = 'V' THEN 'void' WHEN h.st = 'C' THEN 'cancelled'
                                   WHEN i.op <= {name}_last_op(closed) THEN 'closed' ELSE 'open' END ORDER BY i.ord), '{}'),
           coalesce(array_agg(h.why ORDER BY i.ord), '{}'),
           coalesce(array_agg(h.{left} ORDER BY i.ord), '{}'),
           coalesce(array_agg(h.{right} ORDER BY i.ord), '{}')
    INTO rows, whys, lefts, rights
    FROM unnest(asked) WITH ORDINALITY AS i (op, ord)
    LEFT JOIN LATERAL (SELECT h.* FROM {name}_half h WHERE h.op = i.op LIMIT 1) h ON true;
END $$;

-- Which operation of each pair is live, and does the entity of this side exist?
CREATE FUNCTION {name}_find(
    lefts uuid[], rights uuid[], OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT ops uuid[], OUT entities boolean[]
) LANGUAGE plpgsql STABLE {plans} AS $$
#variable_conflict use_column
BEGIN
    SELECT m.inc, m.peer_inc, m.closed, m.restoring INTO inc, peer_inc, closed, restoring FROM {name}_mark m;
    SELECT coalesce(array_agg(h.op ORDER BY i.ord), '{}'),
           coalesce(array_agg((SELECT e.id FROM {own} e WHERE e.id = i.{own_column}) IS NOT NULL ORDER BY i.ord), '{}')
    INTO ops, entities
    FROM unnest(lefts, rights) WITH ORDINALITY AS i (l, r, ord)
    LEFT JOIN LATERAL (
        SELECT h.op FROM {name}_half h WHERE h.{left} = i.l AND h.{right} = i.r AND h.st = 'L' LIMIT 1
    ) h ON true;
END $$;

-- The live halves of entities of this side, with the entity itself. The range is written so that only the index of
-- the entity has this order: that of the operations has "op > after ORDER BY op" as well, and reads everybody's.
CREATE FUNCTION {name}_list_own(ids uuid[], afters uuid[], maxima int[]) RETURNS TABLE (
    inc uuid, peer_inc uuid, closed bigint, restoring boolean, ops text[], others text[], card text
) LANGUAGE plpgsql STABLE {plans} AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT m.inc, m.peer_inc, m.closed, m.restoring, x.ops, x.others, c.card
    FROM unnest(ids, afters, maxima) WITH ORDINALITY AS i (id, after, max, ord)
    CROSS JOIN {name}_mark m
    LEFT JOIN LATERAL (SELECT c.card::text FROM {own}_card c WHERE c.id = i.id LIMIT 1) c ON true
    CROSS JOIN LATERAL (
        SELECT array_agg(h.op::text ORDER BY h.op) AS ops, array_agg(h.{other}::text ORDER BY h.op) AS others FROM (
            SELECT h.op, h.{other} FROM {name}_half h
            WHERE (h.live_{own}, h.op) > (i.id, i.after) AND h.live_{own} <= i.id
            ORDER BY h.live_{own}, h.op LIMIT i.max
        ) h
    ) x
    ORDER BY i.ord;
END $$;

-- The live halves of entities of the peer, each with the entity of this side. The limit comes before the join.
CREATE FUNCTION {name}_list_peer(ids uuid[], afters uuid[], maxima int[]) RETURNS TABLE (
    inc uuid, peer_inc uuid, closed bigint, restoring boolean, ops text[], others text[], cards text[]
) LANGUAGE plpgsql STABLE {plans} AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT m.inc, m.peer_inc, m.closed, m.restoring, x.ops, x.others, x.cards
    FROM unnest(ids, afters, maxima) WITH ORDINALITY AS i (id, after, max, ord)
    CROSS JOIN {name}_mark m
    CROSS JOIN LATERAL (
        SELECT array_agg(h.op::text ORDER BY h.op) AS ops, array_agg(h.{own}::text ORDER BY h.op) AS others,
               array_agg(c.card ORDER BY h.op) AS cards
        FROM (
            SELECT h.op, h.{own} FROM {name}_half h
            WHERE (h.{other}, h.op) > (i.id, i.after) AND h.{other} <= i.id AND h.why IS NULL
            ORDER BY h.{other}, h.op LIMIT i.max
        ) h
        CROSS JOIN LATERAL (SELECT c.card::text FROM {own}_card c WHERE c.id = h.{own} LIMIT 1) c
    ) x
    ORDER BY i.ord;
END $$;

-- The deletion of an entity turns its live halves to C in the same transaction, whoever deletes it.
-- The statement's trigger takes the lock before any row is locked. The shared lock would be safe, but a deletion
-- holds the entity and wants its seats and halves, RECORD and KILL have those and want the entity: deadlocks.
CREATE FUNCTION {name}_exclude() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    RETURN NULL;
END $$;
CREATE TRIGGER {name}_exclude_delete BEFORE DELETE ON {own} FOR EACH STATEMENT EXECUTE FUNCTION {name}_exclude();

CREATE FUNCTION {name}_release() RETURNS trigger LANGUAGE plpgsql {plans} AS $$
BEGIN
    --left-- UPDATE {name}_half h SET st = 'C', why = 'deleted' WHERE h.live_{own} = OLD.id;
    --right-- WITH ended AS (
    --right--     UPDATE {name}_half h SET st = 'C', why = 'deleted' WHERE h.live_{own} = OLD.id
    --right--     RETURNING h.op, h.{left} AS l, h.{right} AS r
    --right-- )
    --right-- INSERT INTO outbox (type, subject, version, inc, data)
    --right-- SELECT '{name}.cancelled', e.op, 2, m.inc,
    --right--        json_build_object('operation', e.op, '{left}', e.l, '{right}', e.r, 'reason', 'deleted')
    --right-- FROM ended e, {name}_mark m WHERE e.op <= {name}_last_op(m.settled);
    RETURN OLD;
END $$;
CREATE TRIGGER {name}_release BEFORE DELETE ON {own} FOR EACH ROW EXECUTE FUNCTION {name}_release();
