"""The databases of the plain candidates (a, b, c): one server, one database per service, as locally in Tally.

The keys are those of Tally's halves: an operation's id, and at most one attendance of a pair, with the entity
that the side lists by first. Tally's other indexes (the peer's direction, dead halves) are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tally.local.postgres import EmbeddedPostgres
from tests.bench.candidates.candidate import Ground
from tests.bench.databases import Database, load_entities

LIVE_ROWS = "SELECT count(*) FROM attendance"

AUTHOR_SCHEMA = """
    CREATE TABLE author (
        id        uuid PRIMARY KEY,
        full_name text NOT NULL,
        email     text,
        version   bigint NOT NULL DEFAULT 1
    );
    CREATE TABLE attendance (
        op     uuid PRIMARY KEY,
        event  uuid NOT NULL,
        author uuid NOT NULL REFERENCES author,
        since  timestamptz NOT NULL DEFAULT now(),
        UNIQUE (author, event)
    );
"""
CONFERENCE_SCHEMA = """
    CREATE TABLE conference (
        id      uuid PRIMARY KEY,
        acronym text NOT NULL,
        name    text,
        version bigint NOT NULL DEFAULT 1
    );
    CREATE TABLE event (
        id            uuid PRIMARY KEY,
        conference_id uuid NOT NULL REFERENCES conference,
        seq           integer NOT NULL,
        title         text,
        version       bigint NOT NULL DEFAULT 1,
        UNIQUE (conference_id, seq)
    );
    CREATE TABLE attendance (
        op     uuid PRIMARY KEY,
        event  uuid NOT NULL REFERENCES event,
        author uuid NOT NULL,
        since  timestamptz NOT NULL DEFAULT now(),
        UNIQUE (event, author)
    );
"""


@dataclass(frozen=True)
class PlainDatabases:
    author: Database
    conference: Database
    postgres_pid: int


@contextmanager
def plain_databases(ground: Ground) -> Iterator[PlainDatabases]:
    """A durable PostgreSQL with both databases and the entities of the workload."""
    with EmbeddedPostgres(ground.folder / "postgres", durable=True, guardian=ground.guardian) as server:
        for service in ("author", "conference"):
            server.create_database(service, service)
        author = Database(server.dsn("author", "author"))
        conference = Database(server.dsn("conference", "conference"))
        author.execute(AUTHOR_SCHEMA)
        conference.execute(CONFERENCE_SCHEMA)
        load_entities(author, conference)
        assert server.pid is not None
        yield PlainDatabases(author, conference, server.pid)
