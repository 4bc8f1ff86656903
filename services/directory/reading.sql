-- name: author
-- One author.
SELECT id, full_name, version, attendances FROM live.author WHERE id = $1 AND shown;

-- name: conference
-- One conference, with how many events it has.
SELECT c.id, c.acronym, c.name, c.version,
    (SELECT count(*) FROM live.event e WHERE e.conference = c.id AND e.shown) AS events
FROM live.conference c WHERE c.id = $1 AND c.shown;

-- name: event
-- One event, with its conference as far as that is known.
SELECT e.id, e.conference AS conference_id, c.acronym, c.name AS conference_name, e.seq, e.title, e.starts_at,
    e.capacity, e.version, e.attendees
FROM live.event e LEFT JOIN live.conference c ON c.id = e.conference AND c.shown WHERE e.id = $1 AND e.shown;

-- name: contains
-- Whether the view shows what became of an operation: it holds it in the state that the log last heard of, or the log
-- knows that there will be nothing to hold.
SELECT CASE WHEN a.operation IS NULL
    THEN EXISTS (
        SELECT FROM operation_state s WHERE s.operation = $1 AND s.state IN ('refused', 'voided', 'rejected', 'abandoned')
    ) OR EXISTS (
        SELECT FROM operation_state s JOIN live.attendance b ON b.operation = s.attempt
        WHERE s.operation = $1 AND s.state = 'confirmed'
    )
    ELSE NOT a.live OR NOT EXISTS (SELECT FROM operation_state s WHERE s.operation = $1 AND s.state = 'cancelled')
END
FROM (VALUES ($1::uuid)) AS asked (operation) LEFT JOIN live.attendance a USING (operation);

-- name: statistics
-- Attendances made and cancelled, by bucket ($1) between $2 and $3, after $4; buckets without any are left out.
SELECT at, sum(made)::bigint AS made, sum(cancelled)::bigint AS cancelled FROM (
    SELECT date_trunc($1, since, 'UTC') AS at, count(*) AS made, 0 AS cancelled
    FROM live.attendance WHERE since >= $2 AND since < $3 GROUP BY 1
    UNION ALL
    SELECT date_trunc($1, cancelled_at, 'UTC'), 0, count(*)
    FROM live.attendance WHERE cancelled_at >= $2 AND cancelled_at < $3 GROUP BY 1
) AS counted WHERE at > $4 GROUP BY at ORDER BY at LIMIT $5;
