-- name: claim
-- Takes the key for an entity about to be made. No row if somebody has it; one that is being claimed is waited for.
-- An expired key is as good as none, whether or not it has been removed yet.
INSERT INTO idempotency AS held (key, route, fingerprint, entity)
VALUES ($1, $2, $3, $4)
ON CONFLICT (key) DO UPDATE
    SET route = excluded.route, fingerprint = excluded.fingerprint, entity = excluded.entity, created_at = now()
    WHERE held.created_at < now() - interval '24 hours'
RETURNING entity;

-- name: held
-- What the key was used for.
SELECT fingerprint, entity FROM idempotency WHERE key = $1;

-- name: expire
-- Removes a few expired keys, so that the table stays small without a job of its own. Never waits.
DELETE FROM idempotency WHERE key IN (
    SELECT key FROM idempotency
    WHERE created_at < now() - interval '24 hours'
    ORDER BY created_at
    LIMIT 5
    FOR UPDATE SKIP LOCKED
);
