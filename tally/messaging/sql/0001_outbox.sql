-- Which life of this database this is: a restore begins a new one. (inc, version) orders the events of a subject;
-- later lives have later ids, because a version 7 UUID is greater than those drawn before it.
CREATE TABLE incarnation (
    id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    inc uuid NOT NULL DEFAULT '00000000-0000-7000-8000-000000000000'
);
INSERT INTO incarnation DEFAULT VALUES;

-- Events, written in the transaction of the change they tell of. Who asked, and in which trace, is what the
-- transaction says of itself (tally.actor, tally.trace), where the writer does not know better.
CREATE TABLE outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq bigint GENERATED ALWAYS AS IDENTITY,
    type text NOT NULL,
    subject uuid NOT NULL,
    version bigint NOT NULL,
    inc uuid NOT NULL,
    data json NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    trace text DEFAULT nullif(current_setting('tally.trace', true), ''),
    actor text DEFAULT nullif(current_setting('tally.actor', true), ''),
    published_at timestamptz
);
CREATE INDEX outbox_waiting ON outbox (seq) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at) WHERE published_at IS NOT NULL;

-- The relay sleeps until something is written.
CREATE FUNCTION outbox_wake() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('outbox', '');
    RETURN NULL;
END $$;
CREATE TRIGGER outbox_wake AFTER INSERT ON outbox FOR EACH STATEMENT EXECUTE FUNCTION outbox_wake();

-- An entity tells of itself, whoever changes it, with all that it is: a row trigger of any table that has an id and a
-- version. A deletion is a version of its own, so that what comes late is known to be late. A transaction that replays
-- what was told already (tally.replaying) tells nothing.
CREATE FUNCTION outbox_tell() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change text := CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'updated' ELSE 'deleted' END;
BEGIN
    IF current_setting('tally.replaying', true) = 'on' THEN
        RETURN NULL;
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO outbox (type, subject, version, inc, data)
        SELECT TG_TABLE_NAME || '.' || change, OLD.id, OLD.version + 1, i.inc, row_to_json(OLD) FROM incarnation i;
    ELSE
        INSERT INTO outbox (type, subject, version, inc, data)
        SELECT TG_TABLE_NAME || '.' || change, NEW.id, NEW.version, i.inc, row_to_json(NEW) FROM incarnation i;
    END IF;
    RETURN NULL;
END $$;
