-- Deletions of entities of which more halves live than one transaction should end: all RECORDs wait while it does. They
-- are decided here, and carried out in parts (tally/halves/deletions.py). `trace` and `actor` are those of who asked.
CREATE TABLE {name}_deletion (
    resource text NOT NULL,
    id uuid NOT NULL,
    cascade boolean NOT NULL,
    trace text,
    actor text,
    decided_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (resource, id)
);

-- Some of what lives of some entities of this side; not more than `most`, however much it is. The range is written as in
-- {name}_list_own, for the same index: each part would read all that is left, or everybody's.
CREATE FUNCTION {name}_living(ids uuid[], most int) RETURNS uuid[] LANGUAGE plpgsql STABLE {plans} AS $$
BEGIN
    RETURN ARRAY (
        SELECT l.op FROM unnest(ids) AS i (id) CROSS JOIN LATERAL (
            SELECT h.op FROM {name}_half h
            WHERE (h.live_{own}, h.op) > (i.id, '00000000-0000-0000-0000-000000000000') AND h.live_{own} <= i.id
            ORDER BY h.live_{own}, h.op LIMIT most
        ) l LIMIT most
    );
END $$;
