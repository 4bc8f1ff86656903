-- A stream may be lost, and replaced by another one or by an older copy of itself. Both who consumes and who publishes
-- must see that: the one would skip what was never seen, the other would not tell again what is gone.

-- What the message was that a cursor stands on: its fingerprint. NULL: it stands on none.
ALTER TABLE inbox_cursor ADD COLUMN message bytea;

-- The end of the stream that the outbox is published to, as it was seen last. NULL: it has not been seen.
CREATE TABLE outbox_stream (
    id int PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    stream text,
    sequence bigint NOT NULL DEFAULT 0,
    message bytea
);
INSERT INTO outbox_stream DEFAULT VALUES;
