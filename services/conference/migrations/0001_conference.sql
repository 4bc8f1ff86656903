CREATE TABLE conference (
    id uuid PRIMARY KEY,
    acronym text NOT NULL,
    name text,
    version bigint NOT NULL DEFAULT 1
);

CREATE TABLE event (
    id uuid PRIMARY KEY,
    conference_id uuid NOT NULL CONSTRAINT event_conference REFERENCES conference (id),
    seq bigint NOT NULL,
    title text,
    starts_at timestamptz,
    capacity bigint,
    version bigint NOT NULL DEFAULT 1,
    CONSTRAINT event_seq UNIQUE (conference_id, seq)
);

CREATE TRIGGER conference_tell AFTER INSERT OR UPDATE OR DELETE ON conference
    FOR EACH ROW EXECUTE FUNCTION outbox_tell();
CREATE TRIGGER event_tell AFTER INSERT OR UPDATE OR DELETE ON event
    FOR EACH ROW EXECUTE FUNCTION outbox_tell();

-- What others see of an event: with its conference, so that a reader needs to ask nobody else.
CREATE VIEW event_card AS
SELECT e.id, row_to_json(e) AS card FROM (
    SELECT e.id, e.conference_id, e.seq, e.title, e.starts_at, e.capacity, e.version, row_to_json(c) AS conference
    FROM event e JOIN (SELECT id, acronym, name, version FROM conference) c ON c.id = e.conference_id
) e;
