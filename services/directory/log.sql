-- name: append
-- States as they were told; one that is told again adds nothing.
INSERT INTO operation_state (operation, state, at, event_id, reason, service, attempt, author, event, detail, trace)
SELECT * FROM unnest(
    $1::uuid[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::text[], $7::uuid[], $8::uuid[], $9::uuid[],
    $10::json[], $11::text[]
)
ON CONFLICT DO NOTHING;

-- name: refresh
-- The pick of these operations: those whose current state is not final are open.
WITH now AS (
    SELECT DISTINCT ON (s.operation) s.operation, s.state, s.at, k.final
    FROM operation_state s JOIN operation_kind k USING (state)
    WHERE s.operation = ANY ($1::uuid[]) ORDER BY s.operation, k.rank DESC, s.at DESC, s.seq DESC
), closed AS (
    DELETE FROM operation_open o USING now WHERE o.operation = now.operation AND now.final
)
INSERT INTO operation_open (operation, state, at, requested_at)
SELECT operation, state, at, (SELECT min(s.at) FROM operation_state s WHERE s.operation = now.operation)
FROM now WHERE NOT final
ON CONFLICT (operation) DO UPDATE SET state = excluded.state, at = excluded.at, requested_at = excluded.requested_at;

-- name: history
-- All that was told of an operation, in the order in which it happened as far as that is known.
SELECT s.state, s.at, s.reason, s.service, s.attempt, s.author, s.event, s.detail, s.trace
FROM operation_state s JOIN operation_kind k USING (state)
WHERE s.operation = $1 ORDER BY k.rank, s.at, s.seq;

-- name: news
-- What was told of some operations.
SELECT s.operation, s.seq, s.state, s.at, s.reason, s.service, s.attempt, s.author, s.event, s.detail, s.trace, k.final
FROM operation_state s JOIN operation_kind k USING (state)
WHERE s.operation = ANY ($1::uuid[]) ORDER BY s.seq;

-- name: open
-- Operations that are in state $1 now (null: in any that is not final), and have been requested longer than $2 ago: what is stuck, and why.
SELECT o.operation AS id, o.state, o.requested_at, o.at, s.reason, s.service, s.author, s.event, s.trace,
    (SELECT count(*) FROM operation_state r WHERE r.operation = o.operation AND r.state = 'retried') AS attempts
FROM operation_open o JOIN LATERAL (
    SELECT * FROM operation_state s WHERE s.operation = o.operation AND s.state = o.state
    ORDER BY s.at DESC, s.seq DESC LIMIT 1
) s ON true
WHERE ($1::text IS NULL OR o.state = $1) AND o.operation > $3 AND o.requested_at <= $2 ORDER BY o.operation LIMIT $4;

-- name: ended
-- The same for a state that is final: those of the log that no other state of the operation outranks.
SELECT s.operation AS id, s.state, first.at AS requested_at, s.at, s.reason, s.service, s.author, s.event, s.trace,
    first.attempts
FROM operation_state s JOIN operation_kind k USING (state) JOIN LATERAL (
    SELECT min(f.at) AS at, count(*) FILTER (WHERE f.state = 'retried') AS attempts
    FROM operation_state f WHERE f.operation = s.operation
) first ON true
WHERE s.state = $1 AND s.operation > $3 AND first.at <= $2 AND NOT EXISTS (
    SELECT FROM operation_state l JOIN operation_kind m ON m.state = l.state
    WHERE l.operation = s.operation AND (m.rank, l.at, l.seq) > (k.rank, s.at, s.seq)
) ORDER BY s.operation LIMIT $4;

-- name: gauges
-- How many operations are in each state that is not final, and since when the oldest.
SELECT k.state, count(o.operation) AS operations, min(o.requested_at) AS oldest
FROM operation_kind k LEFT JOIN operation_open o USING (state) WHERE NOT k.final GROUP BY k.state;
