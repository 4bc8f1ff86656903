-- Who did what to which entity when, in the order of the stream. `hash` is the SHA-256 of the row's canonical JSON and
-- the hash of the row before it (services/directory/chain.py), so a row that was changed, added or removed breaks it.
CREATE TABLE audit (
    seq bigint PRIMARY KEY,
    sequence bigint NOT NULL,
    at timestamptz NOT NULL,
    actor text,
    type text NOT NULL,
    entity text NOT NULL,
    subject uuid NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL,
    source text NOT NULL,
    trace text,
    data text NOT NULL,
    hash bytea NOT NULL
);
CREATE INDEX audit_by_subject ON audit (entity, subject, seq);
CREATE INDEX audit_by_actor ON audit (actor, seq) WHERE actor IS NOT NULL;

-- Where the chain ends: whoever appends holds this row, and rows cut off at the end are missed.
CREATE TABLE audit_head (
    id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    seq bigint NOT NULL DEFAULT 0,
    hash bytea NOT NULL DEFAULT '\x0000000000000000000000000000000000000000000000000000000000000000'
);
INSERT INTO audit_head DEFAULT VALUES;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION append_only();
