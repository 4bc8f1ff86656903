CREATE TABLE session (
    id uuid PRIMARY KEY,
    title text NOT NULL,
    version bigint NOT NULL DEFAULT 1
);

CREATE TRIGGER session_tell AFTER INSERT OR UPDATE OR DELETE ON session
    FOR EACH ROW EXECUTE FUNCTION outbox_tell();

CREATE VIEW session_card AS
SELECT id, json_build_object('id', id, 'title', title, 'version', version) AS card FROM session;
