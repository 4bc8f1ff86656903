"""A second relationship, declared only here: speakers give talks in sessions, and nobody counts seats.

It shows that what ships is not the only relationship possible: it passes the suites that the attendance passes.
"""

from tally.protocol.relationship import End, Relationship, Side

TALK = Relationship(
    name="talk",
    left=End(service="speakers", entity="speaker", plural="speakers"),
    right=End(service="programme", entity="session", plural="sessions"),
)

#: The entity of each side, as its service would migrate it before the relationship.
ENTITY_SQL = {
    Side.LEFT: """
        CREATE TABLE speaker (
            id uuid PRIMARY KEY,
            full_name text NOT NULL,
            version bigint NOT NULL DEFAULT 1
        );
        CREATE VIEW speaker_card AS
        SELECT id, json_build_object('id', id, 'full_name', full_name, 'version', version) AS card FROM speaker;
    """,
    Side.RIGHT: """
        CREATE TABLE session (
            id uuid PRIMARY KEY,
            title text NOT NULL,
            version bigint NOT NULL DEFAULT 1
        );
        CREATE VIEW session_card AS
        SELECT id, json_build_object('id', id, 'title', title, 'version', version) AS card FROM session;
    """,
}
