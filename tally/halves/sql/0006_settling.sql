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

-- KILL and CANCEL, as in 0002, inside the second lock. Each statement of the function below sees what was committed when
-- it begins, so it reads the settled mark after both locks.
ALTER FUNCTION {name}_end(uuid[], uuid[], "char", text) RENAME TO {name}_end_apart;

CREATE FUNCTION {name}_end(
    ops uuid[], incs uuid[], status "char", reason text,
    OUT inc uuid, OUT peer_inc uuid, OUT closed bigint, OUT restoring boolean,
    OUT ords bigint[], OUT whys text[], OUT others uuid[]
) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared({lock});
    PERFORM pg_advisory_xact_lock_shared({settling});
    SELECT e.* INTO inc, peer_inc, closed, restoring, ords, whys, others FROM {name}_end_apart(ops, incs, status, reason) e;
END $$;
