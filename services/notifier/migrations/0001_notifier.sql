-- What a mail needs to know of others, as the events told it: (inc, version) says which event was the newest. Who is
-- deleted stays, because the mail that tells of it needs a name and an address; `forget` empties the row later.
CREATE TABLE author (
    id uuid PRIMARY KEY,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    full_name text NOT NULL,
    email text,
    deleted_at timestamptz
);

CREATE TABLE conference (
    id uuid PRIMARY KEY,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    acronym text NOT NULL
);

CREATE TABLE event (
    id uuid PRIMARY KEY,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    conference uuid NOT NULL,
    seq bigint NOT NULL,
    title text,
    starts_at timestamptz
);

CREATE TABLE attendance (
    operation uuid PRIMARY KEY,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    author uuid NOT NULL,
    event uuid NOT NULL,
    live boolean NOT NULL
);
CREATE INDEX attendance_of_event ON attendance (event) WHERE live;

-- Every mail there is to send, or was: one per operation and what it tells (for a change, which), whatever is delivered
-- again. `id` follows from these, so that the same mail has the same id for ever, here and in its Message-ID.
CREATE TABLE mail (
    id uuid PRIMARY KEY,
    operation uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('confirmed', 'cancelled', 'rejected', 'changed')),
    of text NOT NULL DEFAULT '',
    author uuid NOT NULL,
    event uuid NOT NULL,
    data json NOT NULL DEFAULT '{}',
    at timestamptz NOT NULL,
    trace text,
    state text NOT NULL CHECK (state IN ('waiting', 'sent', 'failed', 'suppressed')),
    attempts int NOT NULL DEFAULT 0,
    reason text,
    due_at timestamptz NOT NULL DEFAULT now(),
    noted_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz,
    UNIQUE (operation, kind, of)
);
CREATE INDEX mail_due ON mail (due_at) WHERE state = 'waiting';
CREATE INDEX mail_state ON mail (state, id);
