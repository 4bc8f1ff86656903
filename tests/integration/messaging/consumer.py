"""A consumer to be tested: a view of subjects in a real database, told by a real stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from tally.chassis.clock import SystemClock
from tally.chassis.database import Connection, Database
from tally.chassis.signals import Signals
from tally.messaging.event import Event, encode
from tally.messaging.inbox import Delivered, Inbox
from tally.messaging.stream import Stream, StreamUnavailable
from tests.support.broker import Broker
from tests.support.postgres import Databases

NAME = "test-view"
_MIGRATIONS = ("0002_inbox.sql", "0004_streams.sql")
_SQL = Path(__file__).resolve().parents[3] / "tally" / "messaging" / "sql"
_VIEW = """
CREATE TABLE view (subject uuid PRIMARY KEY, inc uuid, version bigint, name text);
CREATE TABLE applied (n bigint GENERATED ALWAYS AS IDENTITY, sequence bigint, event uuid, subject uuid, version bigint);
"""
FIRST_LIFE, SECOND_LIFE = UUID(int=1), UUID(int=2)


def event(
    subject: UUID, version: int, change: str = "updated", *, inc: UUID = FIRST_LIFE, name: str = "", **more: object
) -> Event:
    return Event(
        id=uuid4(),
        source="/tally/author",
        type=f"author.{change}",
        time=datetime.now(UTC),
        subject=subject,
        incarnation=inc,
        entityversion=version,
        data={"id": str(subject), "name": name or f"v{version}", **more},
    )


def new_database(databases: Databases) -> str:
    async def prepare(dsn: str) -> None:
        connection = await asyncpg.connect(dsn)
        try:
            for name in _MIGRATIONS:
                await connection.execute((_SQL / name).read_text())
            await connection.execute(_VIEW)
        finally:
            await connection.close()

    return databases("inbox", lambda dsn: asyncio.run(prepare(dsn)))


class Poison(Exception):
    """What a consumer can't digest."""


@dataclass
class Consumer:
    """An inbox with its view. ``poisonous`` names can't be applied."""

    inbox: Inbox
    database: Database
    signals: Signals
    poisonous: set[str] = field(default_factory=set)
    before_commit: Callable[[], None] = lambda: None
    batches: list[list[int]] = field(default_factory=list)

    async def apply(self, tx: Connection, events: Sequence[Delivered]) -> None:
        self.batches.append([one.sequence for one in events])
        for one in events:
            await tx.execute(
                "INSERT INTO applied (sequence, event, subject, version) VALUES ($1, $2, $3, $4)",
                one.sequence,
                one.event.id,
                one.event.subject,
                one.event.entityversion,
            )
            if one.event.data["name"] in self.poisonous:
                raise Poison(one.event.data["name"])
            if one.event.change == "deleted":
                await tx.execute("DELETE FROM view WHERE subject = $1", one.event.subject)
                continue
            await tx.execute(
                "INSERT INTO view VALUES ($1, $2, $3, $4) ON CONFLICT (subject) DO UPDATE"
                " SET inc = excluded.inc, version = excluded.version, name = excluded.name",
                one.event.subject,
                one.event.incarnation,
                one.event.entityversion,
                one.event.data["name"],
            )
        self.before_commit()

    async def view(self) -> dict[UUID, tuple[UUID, int, str]]:
        rows = await self.database.fetch("SELECT * FROM view")
        return {row["subject"]: (row["inc"], row["version"], row["name"]) for row in rows}

    async def applied(self) -> list[UUID]:
        """The ids of the events that were applied, in order."""
        return [row["event"] for row in await self.database.fetch("SELECT event FROM applied ORDER BY n")]

    async def until(self, sequence: int) -> None:
        """Take batches until all up to ``sequence`` is applied or parked."""
        async with asyncio.timeout(20):
            while self.inbox.applied_sequence < sequence:
                await self.inbox.run_once()

    def counted(self, outcome: str) -> float:
        value = self.signals.registry.get_sample_value(
            "tally_consumed_total", {"consumer": self.inbox.name, "outcome": outcome}
        )
        assert value is not None
        return value

    def gauge(self, name: str, label: str = "consumer") -> float:
        value = self.signals.registry.get_sample_value(f"tally_{name}", {label: self.inbox.name})
        assert value is not None
        return value


class Scene:
    """A stream, a database, and consumers of the one in the other."""

    def __init__(self, broker: Broker, dsn: str) -> None:
        self.broker = broker
        self.dsn = dsn
        self.stream = Stream(broker.url, "test", Signals("test"))
        self._consumers: list[Consumer] = []

    async def __aenter__(self) -> Scene:
        await self.stream.__aenter__()
        await self.reachable()
        return self

    async def __aexit__(self, *exit: object) -> None:
        for consumer in self._consumers:
            await consumer.inbox.close()
            await consumer.database.close()
        await self.stream.__aexit__()

    async def reachable(self) -> None:
        await moment(lambda: self.stream.connected)

    async def publish(self, *events: Event) -> int:
        """Publishes in order, past the broker's own deduplication; the last one's place."""
        jetstream = await self.stream.jetstream()
        sequence = 0
        for one in events:
            sequence = (await jetstream.publish(one.stream_subject, encode(one))).seq
        return sequence

    async def publish_raw(self, subject: str, body: bytes) -> int:
        return (await (await self.stream.jetstream()).publish(subject, body)).seq

    def consumer(
        self,
        *,
        every_event: bool = False,
        batch_max: int = 256,
        name: str = NAME,
        signals: Signals | None = None,
        dsn: str | None = None,
    ) -> Consumer:
        signals = signals or Signals("test")
        database = Database(dsn or self.dsn, "test", pool_max=2)

        async def apply(tx: Connection, events: Sequence[Delivered]) -> None:
            await consumer.apply(tx, events)

        inbox = Inbox(
            self.stream,
            name,
            ["tally.event.author.>"],
            apply,
            database,
            signals,
            SystemClock(),
            batch_max=batch_max,
            every_event=every_event,
        )
        consumer = Consumer(inbox, database, signals)
        self._consumers.append(consumer)
        return consumer

    async def wipe(self) -> None:
        """Somebody deletes the stream; it is there again, empty, when this returns."""
        jetstream = await self.stream.jetstream()
        await jetstream.delete_stream("TALLY_EVENTS")
        with contextlib.suppress(StreamUnavailable):
            await self.stream.last_sequence()
        await self.reachable()


async def moment(holds: Callable[[], bool]) -> None:
    """Returns when it holds."""
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def running(consumer: Consumer) -> AsyncIterator[asyncio.Task[None]]:
    """The agent runs for the block."""
    task = asyncio.create_task(consumer.inbox.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})
