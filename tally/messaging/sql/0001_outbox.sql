-- Events, written in the transaction of the change they tell of. (inc, version) orders the events of a subject.
CREATE TABLE outbox (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    seq bigint GENERATED ALWAYS AS IDENTITY,
    type text NOT NULL,
    subject uuid NOT NULL,
    version bigint NOT NULL,
    inc uuid NOT NULL,
    data json NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX outbox_seq ON outbox (seq);
