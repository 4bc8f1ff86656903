-- Many events that change together (a restore) may pass through states that no single change could.
ALTER TABLE event DROP CONSTRAINT event_seq,
    ADD CONSTRAINT event_seq UNIQUE (conference_id, seq) DEFERRABLE INITIALLY IMMEDIATE;
ALTER TABLE event ALTER CONSTRAINT event_conference DEFERRABLE INITIALLY IMMEDIATE;
