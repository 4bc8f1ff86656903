CREATE TABLE speaker (
    id uuid PRIMARY KEY,
    full_name text NOT NULL,
    version bigint NOT NULL DEFAULT 1
);

CREATE TRIGGER speaker_tell AFTER INSERT OR UPDATE OR DELETE ON speaker
    FOR EACH ROW EXECUTE FUNCTION outbox_tell();

CREATE VIEW speaker_card AS
SELECT id, json_build_object('id', id, 'full_name', full_name, 'version', version) AS card FROM speaker;
