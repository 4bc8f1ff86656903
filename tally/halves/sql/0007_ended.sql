-- What lived and was ended is remembered for longer than its void row: deferred work may ask after days whether its
-- attempt ever was, and must not attend again for somebody who has cancelled meanwhile. The protocol does not need it:
-- the operation is dead with it and without it.
CREATE TABLE {name}_ended (
    op uuid PRIMARY KEY,
    why text NOT NULL
);

-- Whoever drops void halves (CLOSE does) leaves the reasons of those that lived behind.
CREATE FUNCTION {name}_remember() RETURNS trigger LANGUAGE plpgsql {plans} AS $$
BEGIN
    INSERT INTO {name}_ended (op, why)
    SELECT d.op, d.why FROM dropped d WHERE d.st = 'V' AND d.why IN ('cancelled', 'deleted') ORDER BY d.op
    ON CONFLICT DO NOTHING;
    DELETE FROM {name}_ended e WHERE e.op = ANY (ARRAY (
        SELECT o.op FROM {name}_ended o
        WHERE o.op <= (SELECT {name}_last_op(greatest(m.closed - {ended_keep_ms}, 0)) FROM {name}_mark m)
        ORDER BY o.op LIMIT 10000
    ));
    RETURN NULL;
END $$;
CREATE TRIGGER {name}_remember AFTER DELETE ON {name}_half
    REFERENCING OLD TABLE AS dropped FOR EACH STATEMENT EXECUTE FUNCTION {name}_remember();

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
