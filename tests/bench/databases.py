"""The benchmark's own questions to PostgreSQL: preloading, counting, and how it is set up."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import asyncpg

from tests.bench import workload

T = TypeVar("T")
Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Rows = Sequence[tuple[object, ...]]

# Every candidate's server must have the same of these, and the durable ones as they are here.
COMPARED = (
    "server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "wal_level",
    "commit_delay", "shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "data_checksums",
    "max_connections", "jit", "track_io_timing",
)  # fmt: skip
DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


@dataclass(frozen=True)
class Database:
    """One database by its address; every call opens and closes a connection, outside of what is measured."""

    dsn: str

    def execute(self, sql: str) -> None:
        self._ask(lambda connection: connection.execute(sql))

    def value(self, sql: str) -> Any:
        return self._ask(lambda connection: connection.fetchval(sql))

    def settings(self) -> dict[str, str]:
        sql = "SELECT name, current_setting(name) AS value FROM unnest($1::text[]) AS name"
        rows = self._ask(lambda connection: connection.fetch(sql, COMPARED))
        return {row["name"]: row["value"] for row in rows}

    def load(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        self._ask(lambda connection: connection.copy_records_to_table(table, columns=columns, records=rows))
        self.execute(f"ANALYZE {table}")

    def _ask(self, question: Callable[[Connection], Awaitable[T]]) -> T:
        async def ask() -> T:
            connection = await asyncpg.connect(self.dsn)
            try:
                return await question(connection)
            finally:
                await connection.close()

        return asyncio.run(ask())


def load_entities(author: Database, conference: Database) -> None:
    """The authors, the conference and the events of the workload; other columns keep their defaults."""
    people = [(workload.author_id(n), workload.author_name(n)) for n in range(workload.AUTHORS)]
    events = [(workload.event_id(n), workload.CONFERENCE, n + 1) for n in range(workload.EVENTS)]
    author.load("author", ("id", "full_name"), people)
    conference.load("conference", ("id", "acronym"), [(workload.CONFERENCE, "BENCH")])
    conference.load("event", ("id", "conference_id", "seq"), events)
