-- name: begin
-- A cascade begins; nothing if it has begun already.
INSERT INTO saga (id, entity, subject, trace) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING id;

-- name: ends
-- The attendances that the deletion of one entity ends; its kind is filled in. Those of an event are told to end before it
-- is told to be deleted; a large one's long before, and nothing else ends them for this reason.
-- (Two queries, each with an index of its own: with OR between them, all attendances that ever were are read.)
INSERT INTO saga_step (saga, operation, ended)
SELECT $1::uuid, a.operation, false FROM live.attendance a WHERE a.live AND a.{{entity}} = $2
UNION ALL
SELECT $1::uuid, a.operation, true FROM live.attendance a
WHERE NOT a.live AND a.reason = 'deleted' AND a.event = $2 AND '{{entity}}' = 'event'
ORDER BY operation
RETURNING operation;

-- name: join_in
-- These attendances join the cascades of what they belong to, if that has been deleted: they were told of late, or have
-- ended already because of it.
INSERT INTO saga_step (saga, operation)
SELECT s.id, a.operation FROM live.attendance a
CROSS JOIN LATERAL (VALUES ('author', a.author), ('event', a.event), ('conference', a.conference)) belongs (entity, subject)
JOIN saga s USING (entity, subject)
WHERE a.operation = ANY ($1::uuid[]) AND (a.live OR a.reason = 'deleted') ON CONFLICT DO NOTHING;

-- name: end_steps
-- These attendances have ended; the cascades that waited for them.
UPDATE saga_step SET ended = true WHERE operation = ANY ($1::uuid[]) AND NOT ended RETURNING saga;

-- name: completed
-- Of these cascades, those that have nothing left to wait for.
SELECT s.id, s.trace, array(SELECT o.operation FROM saga_step o WHERE o.saga = s.id ORDER BY o.operation) AS attendances
FROM saga s WHERE s.id = ANY ($1::uuid[]) AND NOT EXISTS (SELECT FROM saga_step o WHERE o.saga = s.id AND NOT o.ended);
