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

-- What others see of an event: with its conference, so that a reader needs to ask nobody else.
CREATE VIEW event_card AS
SELECT e.id,
       json_build_object(
           'id', e.id, 'seq', e.seq, 'title', e.title, 'starts_at', e.starts_at, 'capacity', e.capacity,
           'version', e.version, 'conference_id', e.conference_id,
           'conference', json_build_object('id', c.id, 'acronym', c.acronym, 'name', c.name, 'version', c.version)
       ) AS card
FROM event e JOIN conference c ON c.id = e.conference_id;
