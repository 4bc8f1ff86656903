-- SETTLE, on the right side only: confirm, once, what both sides hold live, and move the mark.
-- Compare and set on settled: of two settlers one confirms. Only what is still live here is confirmed.
CREATE FUNCTION {name}_settle(
    since bigint, upto bigint, expected_inc uuid, matched uuid[],
    OUT applied boolean, OUT confirmed bigint, OUT settled bigint, OUT restoring boolean
) LANGUAGE plpgsql {plans} AS $$
#variable_conflict use_column
BEGIN
    PERFORM pg_advisory_xact_lock({lock});
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
