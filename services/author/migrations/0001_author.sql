CREATE TABLE author (
    id uuid PRIMARY KEY,
    full_name text NOT NULL,
    email text,
    version bigint NOT NULL DEFAULT 1
);

-- What others see of an author. The e-mail address is between the author and this service.
CREATE VIEW author_card AS
SELECT id, json_build_object('id', id, 'full_name', full_name, 'version', version) AS card FROM author;
