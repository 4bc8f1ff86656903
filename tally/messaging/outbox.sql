-- name: patience
-- The relay's transaction waits for the broker, and may for longer than others wait for us.
SELECT set_config('idle_in_transaction_session_timeout', $1, true);

-- name: claim
-- The oldest events that nobody has published and nobody is publishing, without those of some subjects. An event waits
-- for the earlier ones of its subject, which another relay may hold. One that was written in the future (the clock was set
-- back since, or another server's is slower) is of any age: nothing waits for the clock to come there again.
WITH claimed AS (
    SELECT o.* FROM outbox o
    WHERE o.published_at IS NULL AND o.subject <> ALL ($2)
    AND (o.at <= clock_timestamp() - $3::interval OR o.at > clock_timestamp())
    ORDER BY o.seq LIMIT $1 FOR UPDATE SKIP LOCKED
), others AS (
    -- Ordered and limited, so that a long queue is read from its beginning only.
    SELECT o.subject, o.seq FROM outbox o
    WHERE o.published_at IS NULL AND o.seq < (SELECT max(c.seq) FROM claimed c)
    AND o.id NOT IN (SELECT c.id FROM claimed c)
    ORDER BY o.seq LIMIT 10000
)
SELECT c.id, c.type, c.subject, c.version, c.inc, c.data, c.at, c.trace, c.actor FROM claimed c
WHERE NOT EXISTS (SELECT FROM others o WHERE o.subject = c.subject AND o.seq < c.seq)
ORDER BY c.seq;

-- name: mark
-- They are in the stream.
UPDATE outbox SET published_at = clock_timestamp() WHERE id = ANY ($1) AND published_at IS NULL;

-- name: waiting
-- How many events wait to be published, and since when the first of them.
SELECT count(*) AS rows, (SELECT w.at FROM outbox w WHERE w.published_at IS NULL ORDER BY w.seq LIMIT 1) AS oldest
FROM outbox o WHERE o.published_at IS NULL;

-- name: now
-- The moment, by the clock that writes and marks.
SELECT clock_timestamp();

-- name: again
-- To be published again, some of those written since a moment, and published before another: what relays have published
-- again meanwhile is done. (Nothing is published before it is written, so there is an index for it.) What was published in
-- the future, by a clock that was set back since, was published before, too; no relay marks anything so.
UPDATE outbox SET published_at = NULL
WHERE id IN (
    SELECT o.id FROM outbox o
    WHERE o.published_at >= $1 AND o.at >= $1 AND (o.published_at < $2 OR o.published_at > clock_timestamp())
    ORDER BY o.published_at LIMIT $3 FOR UPDATE
);

-- name: stream
-- The end of the stream as it was seen last.
SELECT s.stream, s.sequence, s.message FROM outbox_stream s;

-- name: seen
-- The end of the stream as it is now.
UPDATE outbox_stream SET stream = $1, sequence = $2, message = $3;

-- name: wake
-- Every relay that listens.
SELECT pg_notify('outbox', '');

-- name: tidy
-- Published long enough ago; a few at a time, so that nothing waits for the deletion.
DELETE FROM outbox WHERE id IN (
    SELECT o.id FROM outbox o WHERE o.published_at < clock_timestamp() - $1::interval
    ORDER BY o.published_at LIMIT $2 FOR UPDATE SKIP LOCKED
);
