-- name: keep
-- What the owner said of entities; each is named once.
INSERT INTO shadow_{{entity}} (id, {{names}}, version, as_of)
SELECT id, {{names}}, version, as_of
FROM json_to_recordset($1) AS told (id uuid, {{declared}}, version bigint, as_of timestamptz)
ON CONFLICT (id) DO UPDATE
SET ({{names}}, version, as_of) = ROW ({{excluded}}, excluded.version, excluded.as_of);

-- name: forget
-- They are deleted: nothing of them stays here.
DELETE FROM shadow_{{entity}} WHERE id = ANY ($1);
