-- What each Idempotency-Key made, so that a repeated POST answers with it instead of making another.
-- Rows live 24 hours; see idempotency.sql beside the code.
CREATE TABLE idempotency (
    key         text        PRIMARY KEY,
    route       text        NOT NULL,
    fingerprint bytea       NOT NULL, -- SHA-256 of the route and of the body as it was understood
    entity      uuid        NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now()
);

-- For the removal of the oldest.
CREATE INDEX idempotency_created_at ON idempotency (created_at);
