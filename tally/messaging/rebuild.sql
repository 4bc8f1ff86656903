-- name: begin
-- A rebuild begins, unless one is under way.
INSERT INTO rebuild (projection, state, target, stream) VALUES ($1, 'replaying', $2, $3)
ON CONFLICT (projection) DO UPDATE
SET state = 'replaying', sequence = 0, target = excluded.target, stream = excluded.stream, skipped = 0, started_at = now(), ended_at = NULL,
    before = NULL, after = NULL
WHERE rebuild.state = 'done'
RETURNING projection;

-- name: restart
-- Told from the beginning, unless it is this stream that was begun.
UPDATE rebuild SET sequence = 0, target = $2, skipped = 0, stream = $3
WHERE projection = $1 AND state = 'replaying' AND stream IS DISTINCT FROM $3 RETURNING projection;

-- name: standing
-- How the rebuild stands, or how the last one ended.
SELECT * FROM rebuild WHERE projection = $1;

-- name: advance
-- The shadow has been told more, if it is where the caller believes it to be, and nobody has ended the rebuild.
UPDATE rebuild SET sequence = $3, target = greatest(target, $3), skipped = skipped + $4
WHERE projection = $1 AND sequence = $2 AND state = 'replaying' RETURNING sequence;

-- name: hold
-- The live view stands still, and where, until the end of the transaction.
SELECT sequence FROM inbox_cursor WHERE consumer = $1 FOR UPDATE;

-- name: finish
-- The rebuild is over, if it is not already.
UPDATE rebuild SET state = 'done', ended_at = now() WHERE projection = $1 AND state = 'replaying' RETURNING projection;

-- name: compared
-- What the views before and after held, at the moment of the switch.
UPDATE rebuild SET before = $2, after = $3 WHERE projection = $1;

-- name: switch
-- The two change names. Statements find their tables by name each time that they are planned, so from the commit on
-- everybody reads the other one; who is reading goes on with what was found.
DO $$ BEGIN
    ALTER SCHEMA live RENAME TO outgoing;
    ALTER SCHEMA shadow RENAME TO live;
    ALTER SCHEMA outgoing RENAME TO shadow;
END $$;
