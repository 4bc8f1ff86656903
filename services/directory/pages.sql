-- Pages by key: each goes on behind the key of the row that the page before ended with. What differs between a list's
-- orders is filled in: {{key}} (before which {{beyond}} compares, in {{direction}}) and {{found}}, a filter that is only
-- there if it is asked for, so that PostgreSQL plans with the index that serves it.

-- name: author
-- Authors; $4 is what to search for in their names.
SELECT a.id, a.full_name, a.version, a.attendances FROM live.author a
WHERE a.shown AND ({{key}}, a.id) {{beyond}} ($1, $2::uuid) AND {{found}}
ORDER BY {{key}} {{direction}}, a.id {{direction}} LIMIT $3;

-- name: author_key
-- Where an author stands in that order.
SELECT {{key}} FROM live.author a WHERE a.id = $1;

-- name: conference
-- Conferences.
SELECT c.id, c.acronym, c.name, c.version,
    (SELECT count(*) FROM live.event e WHERE e.conference = c.id AND e.shown) AS events
FROM live.conference c
WHERE c.shown AND ({{key}}, c.id) {{beyond}} ($1, $2::uuid) ORDER BY {{key}} {{direction}}, c.id {{direction}} LIMIT $3;

-- name: conference_key
-- Where a conference stands in that order.
SELECT {{key}} FROM live.conference c WHERE c.id = $1;

-- name: event
-- Events with their conferences: of conference $4, from $5, before $6, where those are given.
SELECT e.id, e.conference AS conference_id, c.acronym, c.name AS conference_name, e.seq, e.title, e.starts_at,
    e.capacity, e.version, e.attendees
FROM live.event e LEFT JOIN live.conference c ON c.id = e.conference AND c.shown
WHERE e.shown AND ({{key}}, e.id) {{beyond}} ($1, $2::uuid) AND {{found}}
    AND ($5::timestamptz IS NULL OR e.starts_at >= $5) AND ($6::timestamptz IS NULL OR e.starts_at < $6)
ORDER BY {{key}} {{direction}}, e.id {{direction}} LIMIT $3;

-- name: event_key
-- Where an event stands in that order.
SELECT {{key}} FROM live.event e WHERE e.id = $1;

-- name: author_attendance
-- The events that author $4 attends: of conference $5, from $6, before $7, where those are given.
SELECT a.operation, a.since, e.id, e.conference AS conference_id, c.acronym, c.name AS conference_name, e.seq, e.title,
    e.starts_at, e.capacity, e.version, e.attendees
FROM live.attendance a
JOIN live.event e ON e.id = a.event AND e.shown
LEFT JOIN live.conference c ON c.id = e.conference AND c.shown
WHERE a.author = $4 AND a.live AND ({{key}}, a.operation) {{beyond}} ($1, $2::uuid)
    AND ($5::uuid IS NULL OR e.conference = $5)
    AND ($6::timestamptz IS NULL OR e.starts_at >= $6) AND ($7::timestamptz IS NULL OR e.starts_at < $7)
ORDER BY {{key}} {{direction}}, a.operation {{direction}} LIMIT $3;

-- name: author_attendance_key
-- Where an attendance stands in that order.
SELECT {{key}} FROM live.attendance a JOIN live.event e ON e.id = a.event WHERE a.operation = $1;

-- name: event_attendance
-- The authors who attend event $4.
SELECT a.operation, a.since, b.id, b.full_name, b.version, b.attendances
FROM live.attendance a JOIN live.author b ON b.id = a.author AND b.shown
WHERE a.event = $4 AND a.live AND ({{key}}, a.operation) {{beyond}} ($1, $2::uuid)
ORDER BY {{key}} {{direction}}, a.operation {{direction}} LIMIT $3;

-- name: event_attendance_key
-- Where an attendance stands in that order.
SELECT {{key}} FROM live.attendance a JOIN live.author b ON b.id = a.author WHERE a.operation = $1;

-- name: co_attendee
-- Whom author $4 met: authors of the same events, by how many of those there are.
SELECT * FROM (
    SELECT b.id, b.full_name, b.version, b.attendances, count(*) AS together
    FROM live.attendance mine
    JOIN live.event e ON e.id = mine.event AND e.shown
    JOIN live.attendance other ON other.event = mine.event AND other.live AND other.author <> mine.author
    JOIN live.author b ON b.id = other.author AND b.shown
    WHERE mine.author = $4 AND mine.live GROUP BY b.id
) AS b WHERE ({{key}}, b.id) {{beyond}} ($1, $2::uuid) ORDER BY {{key}} {{direction}}, b.id {{direction}} LIMIT $3;

-- name: co_attendee_key
-- Where an author stands in that order, for author $2.
SELECT count(*) FROM live.attendance mine
JOIN live.event e ON e.id = mine.event AND e.shown
JOIN live.attendance other ON other.event = mine.event AND other.live AND other.author = $1
WHERE mine.author = $2 AND mine.live AND mine.author <> $1;

-- name: conference_attendee
-- Who attends any event of conference $4, once each, with how many of them.
SELECT b.id, b.full_name, b.version, b.attendances, a.events FROM (
    SELECT author, count(*) AS events FROM live.attendance
    WHERE conference = $4 AND live AND (author, author) {{beyond}} ($1::uuid, $2::uuid)
    GROUP BY author ORDER BY author
) AS a JOIN live.author b ON b.id = a.author AND b.shown
ORDER BY a.author LIMIT $3;

-- name: conference_attendee_key
-- In the order of their ids.
SELECT $1::uuid;
