-- What a state means: `rank` decides which of an operation's states is its current one (reports overtake each other,
-- so neither arrival nor time decides alone), and a final one is not followed by another, but for `cancelled`, which
-- ends what was confirmed.
CREATE TABLE operation_kind (
    state text PRIMARY KEY,
    rank smallint NOT NULL,
    final boolean NOT NULL
);
INSERT INTO operation_kind (state, rank, final) VALUES
    ('requested', 0, false),
    ('deferred', 1, false), ('retried', 1, false), ('parked', 1, false),
    ('unknown', 2, false),
    ('recorded', 3, false),
    ('started', 4, false), ('completed', 5, true),
    ('confirmed', 6, true),
    ('refused', 7, true), ('voided', 7, true), ('rejected', 7, true), ('abandoned', 7, true),
    ('cancelled', 8, true);

-- Every state of every operation, as it was told. Nothing here is ever changed: readers pick the state.
CREATE TABLE operation_state (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation uuid NOT NULL,
    state text NOT NULL REFERENCES operation_kind (state),
    at timestamptz NOT NULL,
    reason text,
    service text,
    attempt uuid,
    author uuid,
    event uuid,
    detail json,
    trace text,
    event_id uuid NOT NULL,
    -- An event that is delivered again adds nothing.
    CONSTRAINT operation_state_once UNIQUE (operation, state, event_id)
);
CREATE UNIQUE INDEX operation_requested ON operation_state (operation) WHERE state = 'requested';
CREATE INDEX operation_by_state ON operation_state (state, operation);

-- Operations whose state is not final: a pick of the log that is kept, because it is asked for all the time.
CREATE TABLE operation_open (
    operation uuid PRIMARY KEY,
    state text NOT NULL REFERENCES operation_kind (state),
    requested_at timestamptz NOT NULL,
    at timestamptz NOT NULL
);
CREATE INDEX operation_open_by_state ON operation_open (state, operation);

-- A cascade: what the deletion of one entity ends. Its own states stand in the log under its id.
CREATE TABLE saga (
    id uuid PRIMARY KEY,
    entity text NOT NULL,
    subject uuid NOT NULL,
    trace text
);
CREATE INDEX saga_by_subject ON saga (entity, subject);
CREATE TABLE saga_step (
    saga uuid NOT NULL REFERENCES saga (id),
    operation uuid NOT NULL,
    ended boolean NOT NULL DEFAULT false,
    PRIMARY KEY (saga, operation)
);
CREATE INDEX saga_step_open ON saga_step (operation) WHERE NOT ended;

CREATE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TRIGGER operation_state_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON operation_state
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
