-- name: put_authors
-- Authors as their events tell them; what is older than what is there changes nothing.
INSERT INTO {{schema}}.author AS a (id, full_name, inc, version, deleted)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::bigint[], $5::boolean[])
ON CONFLICT (id) DO UPDATE
SET full_name = excluded.full_name, inc = excluded.inc, version = excluded.version, deleted = excluded.deleted
WHERE (a.inc, a.version) < (excluded.inc, excluded.version);

-- name: put_conferences
-- The same for conferences.
INSERT INTO {{schema}}.conference AS c (id, acronym, name, inc, version, deleted)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::bigint[], $6::boolean[])
ON CONFLICT (id) DO UPDATE
SET acronym = excluded.acronym, name = excluded.name,
    inc = excluded.inc, version = excluded.version, deleted = excluded.deleted
WHERE (c.inc, c.version) < (excluded.inc, excluded.version);

-- name: put_events
-- The same for events. Attendances that came before their event learn its conference now.
WITH put AS (
    INSERT INTO {{schema}}.event AS e (id, conference, seq, title, starts_at, capacity, inc, version, deleted)
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::bigint[], $4::text[], $5::timestamptz[], $6::bigint[], $7::uuid[], $8::bigint[],
        $9::boolean[]
    )
    ON CONFLICT (id) DO UPDATE
    SET conference = excluded.conference, seq = excluded.seq, title = excluded.title,
        starts_at = excluded.starts_at, capacity = excluded.capacity,
        inc = excluded.inc, version = excluded.version, deleted = excluded.deleted
    WHERE (e.inc, e.version) < (excluded.inc, excluded.version)
    RETURNING e.id, e.conference
)
UPDATE {{schema}}.attendance a SET conference = put.conference
FROM put WHERE a.event = put.id AND a.live AND a.conference IS DISTINCT FROM put.conference;

-- name: put_attendances
-- Attendances, and what changes by them in the counts of their authors and events. A row that was not live and is, or
-- the other way round, counts; so the counts, too, depend on what was told and not on when.
WITH told AS (
    SELECT * FROM unnest(
        $1::uuid[], $2::uuid[], $3::uuid[], $4::boolean[], $5::timestamptz[], $6::timestamptz[], $7::text[],
        $8::uuid[], $9::bigint[]
    ) AS t (operation, author, event, live, since, cancelled_at, reason, inc, version)
), old AS (
    SELECT operation, live FROM {{schema}}.attendance WHERE operation = ANY ($1)
), put AS (
    INSERT INTO {{schema}}.attendance AS a
        (operation, author, event, conference, live, since, cancelled_at, reason, inc, version)
    SELECT t.operation, t.author, t.event, e.conference, t.live, t.since, t.cancelled_at, t.reason, t.inc, t.version
    FROM told t LEFT JOIN {{schema}}.event e ON e.id = t.event
    ON CONFLICT (operation) DO UPDATE
    SET conference = excluded.conference, live = excluded.live, cancelled_at = excluded.cancelled_at,
        reason = excluded.reason, inc = excluded.inc, version = excluded.version
    WHERE (a.inc, a.version) < (excluded.inc, excluded.version)
    RETURNING a.operation, a.author, a.event, a.live
), delta AS (
    SELECT p.author, p.event, p.live::int - coalesce(o.live, false)::int AS change
    FROM put p LEFT JOIN old o USING (operation)
), authors AS (
    INSERT INTO {{schema}}.author AS a (id, attendances)
    SELECT author, sum(change) FROM delta GROUP BY author HAVING sum(change) <> 0 ORDER BY author
    ON CONFLICT (id) DO UPDATE SET attendances = a.attendances + excluded.attendances
)
INSERT INTO {{schema}}.event AS e (id, attendees)
SELECT event, sum(change) FROM delta GROUP BY event HAVING sum(change) <> 0 ORDER BY event
ON CONFLICT (id) DO UPDATE SET attendees = e.attendees + excluded.attendees;

-- name: empty
-- Before a rebuild.
TRUNCATE {{schema}}.author, {{schema}}.conference, {{schema}}.event, {{schema}}.attendance;
