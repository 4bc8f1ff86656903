-- What is kept of {{entity}}, which another service owns: told by its events, for when it can't be asked.
CREATE TABLE shadow_{{entity}} (
    id uuid PRIMARY KEY,
    {{declared}},
    version bigint NOT NULL,
    as_of timestamptz NOT NULL
);

-- As a reader sees it, with its age.
CREATE VIEW shadow_{{entity}}_card AS
SELECT s.id, row_to_json(s) AS card FROM (
    SELECT {{shown}}
    FROM shadow_{{entity}} e
    {{joined}}
) s;
