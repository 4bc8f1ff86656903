"""Brings a database to the schema that the code expects.

A source is a label and its numbered files: the service's own folder, and one per relationship, whose SQL is
rendered from a template. `0001_half.sql` comes before `0002_outbox.sql`; the sources come in the order given.

    applied = await migrate(dsn, [Source("author", files(folder)), Source("attendance", rendered)])

What was applied is recorded with its SHA-256 in `schema_migration`. An applied file is never edited: it says what a
database out there has been through. So an edited file, a gap in the numbers, and a number below one already applied
are refused before anything is touched. A database that has had more than we know is left as it is: in a rolling
upgrade, or after going back, the older version meets the newer schema.

Each file runs in a transaction of its own, which also records it; PostgreSQL's DDL is transactional, so a file that
fails leaves nothing. Any number of replicas may run this at once: one holds the advisory lock, the others wait for
it, then find nothing to do.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import asyncpg
import structlog

from tally.chassis.database import KEEPALIVES, Connection, Database
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.database_url import addresses
from tally.chassis.queries import substituted

# Spells "tally" in a 64-bit key of `pg_advisory_lock`; the same for every service, each of which has its own database.
LOCK_KEY: Final = 0x74616C6C79
_CONNECT_S: Final = 5.0
_CONNECT_PAUSE_S: Final = 0.5
_TABLE_WAIT_S: Final = 10.0
_NAME: Final = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")

_TABLE: Final = """
CREATE TABLE IF NOT EXISTS schema_migration (
    source     text        NOT NULL,
    number     integer     NOT NULL,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (source, number)
)"""
_APPLIED: Final = "SELECT source, number, name, checksum FROM schema_migration"
_RECORD: Final = "INSERT INTO schema_migration (source, number, name, checksum) VALUES ($1, $2, $3, $4)"

_log = structlog.get_logger()


class MigrationError(Exception):
    """The files and the database do not fit, or a file failed; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file."""

    source: str
    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self.sql.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.source}/{self.name}"


@dataclass(frozen=True, slots=True)
class Source:
    """The migrations of one owner. `files` are (file name, SQL) pairs; their order is that of their numbers."""

    label: str
    files: Sequence[tuple[str, str]]

    def migrations(self) -> list[Migration]:
        found = sorted((_numbered(self.label, name, sql) for name, sql in self.files), key=lambda m: m.number)
        for expected, migration in enumerate(found, 1):
            if migration.number != expected:
                raise MigrationError(
                    f"{migration} should be number {expected:04d}: the numbers have no gaps and no doubles."
                )
        return found


def files(folder: Path | Traversable, **substitutions: str) -> list[tuple[str, str]]:
    """The (name, SQL) pairs of a folder's `.sql` files, with every `{{x}}` replaced by the substitution `x`."""
    return [
        (file.name, substituted(file.read_text(encoding="utf-8"), file.name, substitutions))
        for file in folder.iterdir()
        if file.name.endswith(".sql")
    ]


async def migrate(
    dsn: str, sources: Iterable[Source], *, lock_wait_s: float = 60.0, connect_wait_s: float = 90.0
) -> list[Migration]:
    """Applies what is not applied yet, and returns it. MigrationError if that cannot be done.

    Waits up to `connect_wait_s` for PostgreSQL to answer, and up to `lock_wait_s` for another migration to end.
    """
    wanted = [source.migrations() for source in sources]
    connection = await _connected(dsn, connect_wait_s)
    try:
        await _lock(connection, lock_wait_s)
        await connection.execute(_TABLE)
        todo = _todo(wanted, await _checksums(connection))
        for migration in todo:
            await _apply(connection, migration)
    finally:
        # Closing ends the session, and with it the lock.
        await connection.close()
    if not todo:
        _log.info("schema is up to date", migrations=sum(map(len, wanted)))
    return todo


async def pending(connection: Connection, sources: Iterable[Source]) -> list[str]:
    """The migrations that this database still needs, as `source/name`. Empty: the service may serve."""
    if await connection.fetchval("SELECT to_regclass('schema_migration')") is None:
        applied: Mapping[tuple[str, int], tuple[str, str]] = {}
    else:
        applied = await _checksums(connection)
    return [str(migration) for migration in _todo([source.migrations() for source in sources], applied)]


def _numbered(label: str, name: str, sql: str) -> Migration:
    match = _NAME.fullmatch(name)
    if match is None:
        raise MigrationError(f"{label}/{name} is not named like 0001_what_it_does.sql.")
    return Migration(label, int(match[1]), name, sql)


async def _connected(dsn: str, wait_s: float) -> Connection:
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + wait_s
    at = " or ".join(addresses(dsn)) or "its default address"
    told = ""
    while True:
        try:
            settings = {"application_name": "tally-migrate", **KEEPALIVES}
            return await asyncpg.connect(dsn, timeout=_CONNECT_S, server_settings=settings)
        except (OSError, asyncpg.CannotConnectNowError) as error:
            reason = str(error) or "no answer"
            if loop.time() >= give_up_at:
                raise MigrationError(f"The database at {at} cannot be reached: {reason}.") from error
            if reason != told:
                told = reason
                _log.warning("waiting for the database", at=at, reason=reason, patience_s=wait_s)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise MigrationError(f"The database at {at} refuses the connection: {error}.") from error
        await asyncio.sleep(_CONNECT_PAUSE_S)


async def _lock(connection: Connection, wait_s: float) -> None:
    try:
        await connection.execute(f"SET lock_timeout = {round(wait_s * 1000)}")
        await connection.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
    except asyncpg.LockNotAvailableError as error:
        raise MigrationError(f"Another migration has held the lock for {wait_s:g} s; see whether it hangs.") from error
    # A change that waits for a table holds up everybody behind it: rather fail, and be run again.
    await connection.execute(f"SET lock_timeout = {round(_TABLE_WAIT_S * 1000)}")


async def _checksums(connection: Connection) -> dict[tuple[str, int], tuple[str, str]]:
    rows = await connection.fetch(_APPLIED)
    return {(row["source"], row["number"]): (row["name"], row["checksum"]) for row in rows}


def _todo(wanted: Sequence[Sequence[Migration]], applied: Mapping[tuple[str, int], tuple[str, str]]) -> list[Migration]:
    """Decides; touches nothing. A source that the database knows and we do not is none of our business."""
    todo = []
    for migrations in wanted:
        for migration in migrations:
            before = applied.get((migration.source, migration.number))
            if before is None:
                todo.append(migration)
            else:
                _check_unchanged(migration, *before)
            _check_order(migration.source, applied)
    return todo


def _check_unchanged(migration: Migration, name: str, checksum: str) -> None:
    if checksum != migration.checksum:
        raise MigrationError(
            f"{migration} was edited after it had been applied (as {name}). Undo that; put the change in a new file."
        )


def _check_order(label: str, applied: Mapping[tuple[str, int], tuple[str, str]]) -> None:
    done = sorted(number for source, number in applied if source == label)
    if done != list(range(1, len(done) + 1)):
        missing = next(number for number in range(1, done[-1]) if number not in done)
        raise MigrationError(
            f"{label} {missing:04d} was never applied to this database, but {done[-1]:04d} was: it cannot come after."
        )


async def _apply(connection: Connection, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(migration.sql)
            await connection.execute(_RECORD, migration.source, migration.number, migration.name, migration.checksum)
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{migration} failed, and nothing of it was kept: {error}") from error
    _log.info("migrated", source=migration.source, migration=migration.name)


class Schema:
    """The schema that a running service needs: waited for at its start, and a check of its readiness."""

    def __init__(self, database: Database, sources: Sequence[Source]) -> None:
        self._database = database
        self._sources = sources
        self._complete = False

    async def wait(self, pause_s: float = 0.5) -> None:
        """Returns once nothing is pending. Somebody else migrates: an init container, or `make run`.

        A database that goes away meanwhile is waited for, too.
        """
        told: list[str] = []
        while missing := await self._missing_or_away():
            if missing != told:
                told = missing
                _log.warning("waiting for migrations", pending=missing)
            await asyncio.sleep(pause_s)

    async def check(self) -> None:
        """Raises while migrations are pending. A schema does not go back, so the answer yes is kept."""
        if missing := await self._missing():
            raise MigrationError(f"pending: {', '.join(missing)}")

    async def _missing_or_away(self) -> list[str]:
        try:
            return await self._missing()
        except DatabaseFault as fault:
            return [f"not known: {fault.reason}"]

    async def _missing(self) -> list[str]:
        if self._complete:
            return []
        async with self._database.acquire() as connection:
            missing = await pending(connection, self._sources)
        self._complete = not missing
        return missing
