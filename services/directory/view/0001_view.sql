-- The read view, in one of two schemas: `live` is read, `shadow` is where a rebuild grows until the two change names.
--
-- Events of different subjects come in any order, so a row may be mentioned before it is known: an attendance makes
-- the row of its author with version 0, which nobody is shown, and the author fills it in. (inc, version) is what a row
-- was last told by; what is older changes nothing, and what is deleted stays as a row, so that it is known to be older.
CREATE SCHEMA {{schema}};

CREATE TABLE {{schema}}.author (
    id uuid PRIMARY KEY,
    full_name text,
    inc uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version bigint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false,
    attendances bigint NOT NULL DEFAULT 0,
    shown boolean GENERATED ALWAYS AS (version > 0 AND NOT deleted) STORED,
    words tsvector GENERATED ALWAYS AS (to_tsvector('simple', coalesce(full_name, ''))) STORED
);
CREATE INDEX ON {{schema}}.author (id) WHERE shown;
CREATE INDEX ON {{schema}}.author (full_name COLLATE "C", id) WHERE shown;
CREATE INDEX ON {{schema}}.author (attendances, id) WHERE shown;
CREATE INDEX ON {{schema}}.author USING gin (words) WHERE shown;

CREATE TABLE {{schema}}.conference (
    id uuid PRIMARY KEY,
    acronym text,
    name text,
    inc uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version bigint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false,
    shown boolean GENERATED ALWAYS AS (version > 0 AND NOT deleted) STORED
);
CREATE INDEX ON {{schema}}.conference (acronym COLLATE "C", id) WHERE shown;

CREATE TABLE {{schema}}.event (
    id uuid PRIMARY KEY,
    conference uuid,
    seq bigint,
    title text,
    starts_at timestamptz,
    capacity bigint,
    inc uuid NOT NULL DEFAULT '00000000-0000-0000-0000-000000000000',
    version bigint NOT NULL DEFAULT 0,
    deleted boolean NOT NULL DEFAULT false,
    attendees bigint NOT NULL DEFAULT 0,
    shown boolean GENERATED ALWAYS AS (version > 0 AND NOT deleted) STORED
);
CREATE INDEX ON {{schema}}.event (attendees, id) WHERE shown;
CREATE INDEX ON {{schema}}.event (coalesce(starts_at, 'infinity'), id) WHERE shown;
CREATE INDEX ON {{schema}}.event (conference, id) WHERE shown;

-- One row per operation. `since` is the operation's own time, which its id tells, so it does not depend on which of its
-- events came first. `conference` is joined in beforehand: the event's, as soon as that is known.
CREATE TABLE {{schema}}.attendance (
    operation uuid PRIMARY KEY,
    author uuid NOT NULL,
    event uuid NOT NULL,
    conference uuid,
    live boolean NOT NULL,
    since timestamptz NOT NULL,
    cancelled_at timestamptz,
    reason text,
    inc uuid NOT NULL,
    version bigint NOT NULL
);
CREATE INDEX ON {{schema}}.attendance (author, operation) WHERE live;
CREATE INDEX ON {{schema}}.attendance (event, operation) WHERE live;
CREATE INDEX ON {{schema}}.attendance (conference, author) WHERE live;
CREATE INDEX ON {{schema}}.attendance (since);
CREATE INDEX ON {{schema}}.attendance (cancelled_at) WHERE cancelled_at IS NOT NULL;
