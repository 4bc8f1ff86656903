-- Seats, on the right side, for the entities that have a capacity ({own}.{seats}; NULL is unlimited).
-- taken counts live halves: counting only confirmed ones oversells. A restore may overbook, so taken may
-- exceed capacity; only RECORD and a change of the capacity may not make it so.
CREATE TABLE {name}_seat (
    {right} uuid PRIMARY KEY REFERENCES {own} (id) ON DELETE CASCADE,
    capacity bigint NOT NULL,
    taken bigint NOT NULL CONSTRAINT {name}_seat_taken CHECK (taken >= 0)
);

-- Nobody records while a capacity changes, so the count is exact. The statement's trigger comes first.
CREATE TRIGGER {name}_exclude_update BEFORE UPDATE OF {seats} ON {own} FOR EACH STATEMENT EXECUTE FUNCTION {name}_exclude();

CREATE FUNCTION {name}_reseat() RETURNS trigger LANGUAGE plpgsql {plans} AS $$
DECLARE
    live bigint;
BEGIN
    IF NEW.{seats} IS NULL THEN
        DELETE FROM {name}_seat WHERE {right} = NEW.id;
        RETURN NULL;
    END IF;
    SELECT count(*) INTO live FROM {name}_half h WHERE h.live_{own} = NEW.id;
    IF live > NEW.{seats} THEN
        RAISE EXCEPTION '% seats are taken', live USING ERRCODE = 'check_violation', CONSTRAINT = '{name}_seat_capacity';
    END IF;
    INSERT INTO {name}_seat ({right}, capacity, taken) VALUES (NEW.id, NEW.{seats}, live)
    ON CONFLICT ({right}) DO UPDATE SET capacity = EXCLUDED.capacity, taken = EXCLUDED.taken;
    RETURN NULL;
END $$;
CREATE TRIGGER {name}_reseat_insert AFTER INSERT ON {own} FOR EACH ROW
    WHEN (NEW.{seats} IS NOT NULL) EXECUTE FUNCTION {name}_reseat();
CREATE TRIGGER {name}_reseat_update AFTER UPDATE ON {own} FOR EACH ROW
    WHEN (NEW.{seats} IS DISTINCT FROM OLD.{seats}) EXECUTE FUNCTION {name}_reseat();
