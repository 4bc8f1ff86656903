-- name: claim
-- Mails whose time has come, for this process alone until the claim ends; others that claim now get others. `attempts`
-- tells this claim from later ones. Those that were tried less come first: what always fails must not go before the rest.
-- What is not known yet of the author or the event is null.
WITH due AS (
    SELECT id FROM mail WHERE state = 'waiting' AND due_at <= now() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
), claimed AS (
    UPDATE mail SET due_at = now() + make_interval(secs => $2), attempts = attempts + 1
    FROM due WHERE mail.id = due.id RETURNING mail.*
)
SELECT m.id, m.operation, m.kind, m.of, m.author, m.event, m.data, m.at, m.trace, m.attempts, m.noted_at,
    a.id IS NOT NULL AS author_known, a.full_name, a.email,
    e.id IS NOT NULL AND c.id IS NOT NULL AS event_known, e.seq, e.title, e.starts_at, c.acronym
FROM claimed m
    LEFT JOIN author a ON a.id = m.author
    LEFT JOIN event e ON e.id = m.event
    LEFT JOIN conference c ON c.id = e.conference
ORDER BY m.attempts, m.at, m.id;

-- name: end
-- A mail has come to an end: sent, failed or suppressed.
UPDATE mail SET state = $2, reason = $3, sent_at = CASE WHEN $2 = 'sent' THEN now() END
WHERE id = $1 AND state = 'waiting';

-- name: keep
-- A claim is prolonged, if it is still ours.
UPDATE mail SET due_at = now() + make_interval(secs => $3) WHERE id = $1 AND attempts = $2 AND state = 'waiting';

-- name: later
-- A claimed mail is tried again after some seconds. Nothing happens if the claim is not ours any more.
UPDATE mail SET due_at = now() + make_interval(secs => $3), reason = $4
WHERE id = $1 AND attempts = $2 AND state = 'waiting';

-- name: free
-- Claimed mails are let go: they were not tried. Nothing happens to those whose claim is not ours any more.
UPDATE mail SET due_at = now(), attempts = mail.attempts - 1 FROM unnest($1::uuid[], $2::int[]) AS ours (id, attempts)
WHERE mail.id = ours.id AND mail.attempts = ours.attempts AND state = 'waiting';

-- name: retry
-- What failed, or was suppressed for want of something, is tried again: one mail, or all that failed.
UPDATE mail SET state = 'waiting', due_at = now(), attempts = 0, reason = NULL
WHERE state IN ('failed', 'suppressed') AND (id = $1 OR ($1::uuid IS NULL AND state = 'failed')) RETURNING id;

-- name: waiting
-- How many mails wait, and for how long the oldest has.
SELECT count(*) AS rows, coalesce(extract(epoch FROM now() - min(noted_at)), 0)::float8 AS oldest_s
FROM mail WHERE state = 'waiting';

-- name: page
-- Mails, by their ids; of one operation or in one state if it is given. The address is for operators.
SELECT m.id, m.operation, m.kind, m.state, m.author, m.event, m.at, m.attempts, m.reason, m.sent_at, a.email
FROM mail m LEFT JOIN author a ON a.id = m.author
WHERE m.id > $1 AND ($3::uuid IS NULL OR m.operation = $3) AND ($4::text IS NULL OR m.state = $4)
ORDER BY m.id LIMIT $2;
