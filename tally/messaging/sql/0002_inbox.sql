-- What a consumer of the stream has applied. It is changed in the transaction that applies, so that the two are never
-- different, whatever the broker remembers of its deliveries.

-- Up to where a consumer has applied or parked everything, and in which stream: a stream that was made anew counts
-- from 1 again.
CREATE TABLE inbox_cursor (
    consumer text PRIMARY KEY,
    stream text,
    sequence bigint NOT NULL DEFAULT 0,
    at timestamptz NOT NULL DEFAULT now()
);

-- The newest state of each subject that was applied. A deletion stays, as the tombstone that late events meet.
CREATE TABLE inbox_version (
    consumer text,
    entity text,
    subject uuid,
    inc uuid NOT NULL,
    version bigint NOT NULL,
    deleted boolean NOT NULL,
    PRIMARY KEY (consumer, entity, subject)
);

-- For consumers that want each event and not each state: the events seen lately.
CREATE TABLE inbox_event (
    consumer text,
    id uuid,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, id)
);
CREATE INDEX inbox_event_at ON inbox_event (at);

-- What could not be applied, and what came after it of the same subject, in the order of the stream. Without a subject:
-- what could not even be read.
CREATE TABLE inbox_parked (
    consumer text,
    sequence bigint,
    entity text,
    subject uuid,
    body bytea NOT NULL,
    reason text NOT NULL,
    attempts int NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, sequence)
);
CREATE INDEX inbox_parked_subject ON inbox_parked (consumer, entity, subject, sequence);
