-- name: lead
-- One process reads the slot.
SELECT pg_try_advisory_lock(hashtextextended('tally relay ' || $1, 0));

-- name: name
-- Slots belong to the server, so each database's has its own name.
SELECT 'tally_outbox_' || d.oid FROM pg_database d WHERE d.datname = current_database();

-- name: published
-- Whether there is a publication.
SELECT EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'tally_outbox');

-- name: publication
-- What the slot's reader asks for: marks and deletions are nobody's business.
CREATE PUBLICATION tally_outbox FOR TABLE outbox WITH (publish = 'insert');

-- name: make
-- From here on the log is kept for us.
SELECT pg_create_logical_replication_slot($1, 'pgoutput');

-- name: drop
-- Gives it up.
SELECT pg_drop_replication_slot(s.slot_name) FROM pg_replication_slots s WHERE s.slot_name = $1 AND NOT s.active;

-- name: slot
-- Where the log ends now, whether the slot is of no more use, and how far it is behind. (From 18 on PostgreSQL reads a slot
-- whose publication is gone, and finds nothing in it.)
SELECT pg_current_wal_flush_lsn()::text AS lsn,
    s.wal_status = 'lost' OR NOT EXISTS (SELECT FROM pg_publication p WHERE p.pubname = 'tally_outbox') AS lost,
    coalesce(pg_wal_lsn_diff(pg_current_wal_flush_lsn(), s.confirmed_flush_lsn), 0)::bigint AS lag
FROM pg_replication_slots s WHERE s.slot_name = $1;

-- name: peek
-- What was committed since the slot's place, whole transactions.
SELECT c.data
FROM pg_logical_slot_peek_binary_changes($1, $2::text::pg_lsn, $3, 'proto_version', '1', 'publication_names', 'tally_outbox') c;

-- name: advance
-- All of that is published.
SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)::text;
