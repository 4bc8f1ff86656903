-- A database of the relationship {name} that was restored from a backup: it serves nothing, asks its peer what is live,
-- and goes on from that as a new incarnation. tally.protocol.participant.reconcile is the specification.

-- The incarnation that was announced to the peer last. Only the answer to that one is applied.
ALTER TABLE {name}_mark ADD COLUMN pending uuid;

-- From now on nothing is served. What was noticed first stays in the report, what is noticed later is added.
CREATE FUNCTION {name}_restore(why text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {name}_mark SET restoring = true, pending = NULL;
    UPDATE incarnation SET restoring = true, home = tally_home();
    INSERT INTO restore AS r (reason) VALUES (why)
    ON CONFLICT ((ended_at IS NULL)) WHERE ended_at IS NULL
    DO UPDATE SET reason = r.reason || '; ' || EXCLUDED.reason, caught_up_at = NULL;
END $$;

-- Apply the peer's answer to REJOIN(new_inc), in one transaction with the report. Not applied: there was a later one.
CREATE FUNCTION {name}_reconcile(
    new_inc uuid, their_inc uuid, their_closed bigint, ops uuid[], lefts uuid[], rights uuid[],
    OUT applied boolean, OUT copied uuid[], OUT orphaned uuid[], OUT dropped uuid[], OUT cancelled uuid[]
) LANGUAGE plpgsql AS $$
DECLARE
    settled_op uuid;
    report uuid := (SELECT r.id FROM restore r WHERE r.ended_at IS NULL);
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    SELECT {name}_last_op(m.settled) INTO settled_op FROM {name}_mark m WHERE m.restoring AND m.pending = new_inc;
    applied := FOUND;
    IF NOT applied THEN RETURN; END IF;

    -- What is live here only is gone. What was confirmed of it must be seen to end.
    WITH gone AS (
        DELETE FROM {name}_half h
        WHERE h.st = 'L' AND NOT EXISTS (SELECT FROM unnest(ops) AS t (op) WHERE t.op = h.op)
        RETURNING h.op, h.{left} AS l, h.{right} AS r
        --right-- , h.trace
    --right-- ), told AS (
    --right--     INSERT INTO outbox (type, subject, version, inc, data, trace)
    --right--     SELECT '{name}.cancelled', g.op, 2, new_inc,
    --right--            json_build_object('operation', g.op, '{left}', g.l, '{right}', g.r, 'reason', 'lost'), g.trace
    --right--     FROM gone g WHERE g.op <= settled_op
    )
    SELECT coalesce(array_agg(g.op ORDER BY g.op), '{}'),
           coalesce(array_agg(g.op ORDER BY g.op) FILTER (WHERE g.op <= settled_op), '{}')
    INTO dropped, cancelled FROM gone g;

    -- What is live at the peer is live here, settled or not: an acknowledged operation can't be told from a lone half.
    -- Unless it is dead here, or its entity is lost: then the settler tells the peer.
    WITH theirs AS (
        SELECT t.op, t.l, t.r, e.id IS NOT NULL AS whole
        FROM unnest(ops, lefts, rights) AS t (op, l, r)
        LEFT JOIN {own} e ON e.id = t.{own_column}
        WHERE NOT EXISTS (SELECT FROM {name}_half h WHERE h.op = t.op)
    ), written AS (
        INSERT INTO {name}_half (op, {left}, {right}, st, why)
        SELECT t.op, t.l, t.r, CASE WHEN t.whole THEN 'L' ELSE 'C' END, CASE WHEN NOT t.whole THEN 'lost' END
        FROM theirs t
    )
    SELECT coalesce(array_agg(t.op ORDER BY t.op) FILTER (WHERE t.whole), '{}'),
           coalesce(array_agg(t.op ORDER BY t.op) FILTER (WHERE NOT t.whole), '{}')
    INTO copied, orphaned FROM theirs t;

    --right-- -- What the stream knows as confirmed after this backup, and what is not any more: consumers must see it end.
    --right-- INSERT INTO outbox (type, subject, version, inc, data)
    --right-- SELECT '{name}.cancelled', s.subject, 2, new_inc,
    --right--        json_build_object('operation', s.subject, '{left}', s.data -> '{left}', '{right}', s.data -> '{right}',
    --right--                          'reason', 'lost')
    --right-- FROM restore_seen s
    --right-- WHERE s.entity = '{name}' AND NOT s.deleted AND s.subject > settled_op
    --right-- AND NOT EXISTS (SELECT FROM {name}_half h WHERE h.op = s.subject AND h.st = 'L');
    --seats-- UPDATE {name}_seat s SET taken = (SELECT count(*) FROM {name}_half h WHERE h.live_{own} = s.{right});

    UPDATE {name}_mark m
    SET inc = new_inc, peer_inc = their_inc, closed = greatest(m.closed, their_closed), restoring = false, pending = NULL;

    INSERT INTO restore_item (restore, kind, entity, subject, detail)
    SELECT report, i.kind, i.entity, i.subject, i.detail FROM (
        SELECT 'operation-copied' AS kind, '{name}' AS entity, op AS subject, NULL AS detail FROM unnest(copied) op
        UNION ALL SELECT 'operation-lost', '{name}', op, 'its {own} is lost' FROM unnest(orphaned) op
        UNION ALL SELECT 'operation-dropped', '{name}', op, 'the other side does not have it' FROM unnest(dropped) op
        UNION ALL SELECT 'operation-cancelled', '{name}', op, 'it was confirmed' FROM unnest(cancelled) op
        UNION ALL SELECT DISTINCT 'entity-lost', '{own}', h.{own}, NULL
        FROM {name}_half h WHERE h.op = ANY (orphaned) AND NOT EXISTS (
            SELECT FROM restore_seen s WHERE s.entity = '{own}' AND s.subject = h.{own} AND s.deleted
        )
        --seats-- UNION ALL SELECT 'overbooked', '{own}', s.{right}, s.taken || ' seats of ' || s.capacity
        --seats-- FROM {name}_seat s WHERE s.taken > s.capacity
    ) i WHERE report IS NOT NULL;
    UPDATE restore r SET ended_at = clock_timestamp() WHERE r.id = report;
    DELETE FROM restore_seen;
END $$;

-- The peer is being restored as well, and an operator said that this side is to be taken as it is: the peer will rejoin.
CREATE FUNCTION {name}_stand(new_inc uuid) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
    UPDATE {name}_mark SET inc = new_inc, restoring = false, pending = NULL WHERE restoring;
    UPDATE restore SET ended_at = clock_timestamp() WHERE ended_at IS NULL;
    DELETE FROM restore_seen;
END $$;
--seats--
--seats-- -- As in 0004, but a capacity that comes back from the stream is not refused: the halves come back later.
--seats-- CREATE OR REPLACE FUNCTION {name}_reseat() RETURNS trigger LANGUAGE plpgsql {plans} AS $$
--seats-- DECLARE
--seats--     live bigint;
--seats-- BEGIN
--seats--     IF NEW.{seats} IS NULL THEN
--seats--         DELETE FROM {name}_seat WHERE {right} = NEW.id;
--seats--         RETURN NULL;
--seats--     END IF;
--seats--     SELECT count(*) INTO live FROM {name}_half h WHERE h.live_{own} = NEW.id;
--seats--     IF live > NEW.{seats} AND current_setting('tally.replaying', true) IS DISTINCT FROM 'on' THEN
--seats--         RAISE EXCEPTION '% seats are taken', live USING ERRCODE = 'check_violation', CONSTRAINT = '{name}_seat_capacity';
--seats--     END IF;
--seats--     INSERT INTO {name}_seat ({right}, capacity, taken) VALUES (NEW.id, NEW.{seats}, live)
--seats--     ON CONFLICT ({right}) DO UPDATE SET capacity = EXCLUDED.capacity, taken = EXCLUDED.taken;
--seats--     RETURN NULL;
--seats-- END $$;
