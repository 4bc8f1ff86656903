-- name: insert
-- A new event.
WITH e AS (
    INSERT INTO event (id, conference_id, seq, title, starts_at, capacity) VALUES ($1, $2, $3, $4, $5, $6) RETURNING *
)
SELECT e.*, 0::bigint AS seats_taken FROM e;

-- name: get
-- One event, with its seats in use: counted for it where it has a capacity, counted now where it has none.
SELECT e.*, coalesce(s.taken, (SELECT count(*) FROM attendance_half h WHERE h.live_event = e.id)) AS seats_taken
FROM event e LEFT JOIN attendance_seat s ON s.event = e.id WHERE e.id = $1;

-- name: lock
-- One event, held against change and deletion. RECORD looks at it through a foreign key only.
SELECT e.*, coalesce(s.taken, (SELECT count(*) FROM attendance_half h WHERE h.live_event = e.id)) AS seats_taken
FROM event e LEFT JOIN attendance_seat s ON s.event = e.id WHERE e.id = $1 FOR NO KEY UPDATE OF e;

-- name: page
-- Events in the order of their ids, of one conference if $3. The limit comes before the count.
SELECT e.*, coalesce(s.taken, (SELECT count(*) FROM attendance_half h WHERE h.live_event = e.id)) AS seats_taken
FROM (
    SELECT * FROM event WHERE id > $1 AND ($3::uuid IS NULL OR conference_id = $3) ORDER BY id LIMIT $2
) e LEFT JOIN attendance_seat s ON s.event = e.id ORDER BY e.id;

-- name: update
-- A changed event; a capacity below the seats in use is refused by the seats' own trigger.
WITH e AS (
    UPDATE event SET seq = $2, title = $3, starts_at = $4, capacity = $5, version = version + 1 WHERE id = $1 RETURNING *
)
SELECT e.*, (SELECT count(*) FROM attendance_half h WHERE h.live_event = e.id) AS seats_taken FROM e;

-- name: delete
-- The halves of the event's attendances are released by the half table's own trigger.
DELETE FROM event WHERE id = $1;
