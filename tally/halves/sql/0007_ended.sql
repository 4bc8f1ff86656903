-- What lived and was ended is remembered for longer than its void row: deferred work may ask after days whether its
-- attempt ever was, and must not attend again for somebody who has cancelled meanwhile. The protocol does not need it:
-- the operation is dead with it and without it.
CREATE TABLE {name}_ended (
    op uuid PRIMARY KEY,
    why text NOT NULL
);

-- As in 0002, but void rows of what was ended leave their reason behind.
CREATE OR REPLACE FUNCTION {name}_close(
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
    WITH dropped AS (
        DELETE FROM {name}_half h WHERE h.ctid = ANY (ARRAY (
            SELECT v.ctid FROM {name}_half v
            WHERE v.st = 'V' AND v.op <= {name}_last_op(greatest(closed - keep_ms, 0))
            LIMIT 10000
        ))
        RETURNING h.op, h.why
    )
    INSERT INTO {name}_ended (op, why)
    SELECT d.op, d.why FROM dropped d WHERE d.why IN ('cancelled', 'deleted') ORDER BY d.op
    ON CONFLICT DO NOTHING;
    DELETE FROM {name}_ended e WHERE e.op = ANY (ARRAY (
        SELECT o.op FROM {name}_ended o
        WHERE o.op <= {name}_last_op(greatest(closed - {ended_keep_ms}, 0)) ORDER BY o.op LIMIT 10000
    ));
END $$;

-- As in 0002, and what was ended is void though its row is gone.
CREATE OR REPLACE FUNCTION {name}_status(
    asked uuid[], OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT rows text[], OUT whys text[], OUT lefts uuid[], OUT rights uuid[]
) LANGUAGE plpgsql STABLE {plans} AS $$
#variable_conflict use_column
BEGIN
    SELECT m.inc, m.peer_inc, m.closed, m.restoring INTO inc, peer_inc, closed, restoring FROM {name}_mark m;
    SELECT coalesce(array_agg(CASE WHEN h.st = 'L' THEN 'live' WHEN h.st = 'V' THEN 'void' WHEN h.st = 'C' THEN 'cancelled'
                                   WHEN e.why IS NOT NULL THEN 'void'
                                   WHEN i.op <= {name}_last_op(closed) THEN 'closed' ELSE 'open' END ORDER BY i.ord), '{}'),
           coalesce(array_agg(CASE WHEN h.op IS NULL THEN e.why ELSE h.why END ORDER BY i.ord), '{}'),
           coalesce(array_agg(h.{left} ORDER BY i.ord), '{}'),
           coalesce(array_agg(h.{right} ORDER BY i.ord), '{}')
    INTO rows, whys, lefts, rights
    FROM unnest(asked) WITH ORDINALITY AS i (op, ord)
    LEFT JOIN LATERAL (SELECT h.* FROM {name}_half h WHERE h.op = i.op LIMIT 1) h ON true
    LEFT JOIN LATERAL (SELECT e.why FROM {name}_ended e WHERE e.op = i.op LIMIT 1) e ON true;
END $$;
