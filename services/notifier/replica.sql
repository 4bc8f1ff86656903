-- name: put_author
-- An author as told, unless something newer was told.
INSERT INTO author AS known (id, inc, version, full_name, email, deleted_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (id) DO UPDATE SET
    inc = excluded.inc, version = excluded.version, full_name = excluded.full_name, email = excluded.email,
    deleted_at = excluded.deleted_at
WHERE (known.inc, known.version) < (excluded.inc, excluded.version);

-- name: put_conference
-- A conference as told, unless something newer was told.
INSERT INTO conference AS known (id, inc, version, acronym) VALUES ($1, $2, $3, $4)
ON CONFLICT (id) DO UPDATE SET inc = excluded.inc, version = excluded.version, acronym = excluded.acronym
WHERE (known.inc, known.version) < (excluded.inc, excluded.version);

-- name: event
-- What is known of an event before something newer is put there.
SELECT title, starts_at FROM event WHERE id = $1 AND (inc, version) < ($2, $3) FOR UPDATE;

-- name: put_event
-- An event as told, unless something newer was told.
INSERT INTO event AS known (id, inc, version, conference, seq, title, starts_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (id) DO UPDATE SET
    inc = excluded.inc, version = excluded.version, conference = excluded.conference, seq = excluded.seq,
    title = excluded.title, starts_at = excluded.starts_at
WHERE (known.inc, known.version) < (excluded.inc, excluded.version);

-- name: put_attendance
-- An attendance as told, unless something newer was told of its operation.
INSERT INTO attendance AS known (operation, inc, version, author, event, live) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (operation) DO UPDATE SET inc = excluded.inc, version = excluded.version, live = excluded.live
WHERE (known.inc, known.version) < (excluded.inc, excluded.version);

-- name: attendances
-- Who attends an event.
SELECT operation, author FROM attendance WHERE event = $1 AND live;

-- name: note
-- A mail is to be sent, once; one that is noted already stays as it is.
INSERT INTO mail (id, operation, kind, of, author, event, data, at, trace, state, reason)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING RETURNING id;

-- name: forget
-- The name and address of who was deleted long ago, when no mail needs them any more: none waits, and those that failed
-- nobody has had tried again for as long. What the server said of these may name the address.
WITH forgotten AS (
    UPDATE author SET full_name = '', email = NULL
    WHERE deleted_at < $1 AND full_name <> '' AND NOT EXISTS (
        SELECT FROM mail
        WHERE mail.author = author.id AND (state = 'waiting' OR (state = 'failed' AND greatest(noted_at, due_at) >= $1))
    )
    RETURNING id
)
UPDATE mail SET reason = 'forgotten' FROM forgotten WHERE mail.author = forgotten.id AND state = 'failed';
