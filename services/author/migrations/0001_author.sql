CREATE TABLE author (
    id uuid PRIMARY KEY,
    full_name text NOT NULL,
    email text,
    version bigint NOT NULL DEFAULT 1
);

CREATE TRIGGER author_tell AFTER INSERT OR UPDATE OR DELETE ON author
    FOR EACH ROW EXECUTE FUNCTION outbox_tell();

-- What others see of an author. The e-mail address is between the author and this service.
CREATE VIEW author_card AS
SELECT a.id, row_to_json(a) AS card FROM (SELECT id, full_name, version FROM author) a;
