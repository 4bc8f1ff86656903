"""The outbox: events beside the data they tell of, written in the same transaction, kept until long after they are
published.

Assumes `sql/0001_outbox.sql`. Whoever changes data writes the rows (in SQL, where the change is); here is what happens
to them afterwards. It is a queue, not a log with a cursor: a transaction that commits late has a lower `seq` than what
was published before it, and a cursor would skip it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from tally.chassis.database import Connection, Database, Record
from tally.chassis.queries import load_queries
from tally.messaging.event import Event
from tally.messaging.stream import Bookmark

#: What is told on this channel when something was written.
CHANNEL: Final = "outbox"
_AT_ONCE: Final = 1000
_NOW: Final = timedelta(0)
#: Since before there was anything.
EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)

queries = load_queries(files("tally.messaging").joinpath("outbox.sql"))


@dataclass(frozen=True, slots=True)
class Waiting:
    """What has not been published."""

    rows: int
    oldest: datetime | None


class OutboxStatus(Struct, frozen=True):
    """How an outbox stands, for an operator."""

    mode: str
    """How it is published: outbox or wal."""
    rows: int
    """How many events wait to be published."""
    oldest: datetime | None
    """When the first of them was written."""


class Outbox:
    """The outbox of one service's database."""

    def __init__(self, database: Database, service: str) -> None:
        self._database = database
        self._source = f"/tally/{service}"

    def transaction(self) -> AbstractAsyncContextManager[Connection]:
        return self._database.transaction()

    async def claim(
        self,
        tx: Connection,
        limit: int,
        held: Iterable[UUID] = (),
        *,
        patience_s: float,
        age: timedelta = _NOW,
    ) -> list[Event]:
        """The oldest events that wait, now this transaction's; none of the subjects `held`, none younger than `age`."""
        await tx.execute(queries.patience, f"{round(patience_s * 1000)}ms")
        return [self.event(row) for row in await tx.fetch(queries.claim, limit, list(held), age)]

    def event(self, row: Record | Mapping[str, Any]) -> Event:
        return Event(
            id=row["id"],
            source=self._source,
            type=row["type"],
            time=row["at"],
            subject=row["subject"],
            incarnation=row["inc"],
            entityversion=row["version"],
            traceparent=row["trace"],
            actor=row["actor"],
            data=row["data"],
        )

    async def mark(self, ids: Sequence[UUID], tx: Connection | None = None) -> None:
        """These are in the stream."""
        if ids:
            await (tx or self._database).execute(queries.mark, ids)

    async def waiting(self) -> Waiting:
        row = await self._database.fetchrow(queries.waiting)
        assert row is not None
        return Waiting(row["rows"], row["oldest"])

    async def republish(self, since: datetime, before: datetime | None = None, *, most: int | None = None) -> int:
        """Have what was written since then published once more: how many events. They keep their ids.

        Not what was published after ``before``, which is now unless it is given. ``most``: stop after about as many;
        whoever asks again with the same moments goes on."""
        before = before or await self.now()
        total = 0
        while most is None or total < most:
            again = await self._database.execute(queries.again, since.astimezone(UTC), before, _AT_ONCE)
            if not (changed := _count(again)):
                break
            total += changed
        await self._database.execute(queries.wake)
        return total

    async def now(self) -> datetime:
        """By the database's clock, as the events' own times are."""
        now = await self._database.fetchval(queries.now)
        assert isinstance(now, datetime)
        return now

    async def stream(self) -> Bookmark | None:
        """The end of the stream that it is published to, as it was seen last."""
        row = await self._database.fetchrow(queries.stream)
        assert row is not None
        return None if row["stream"] is None else Bookmark(row["stream"], row["sequence"], row["message"])

    async def saw(self, end: Bookmark) -> None:
        """Take note of the stream's end."""
        await self._database.execute(queries.seen, end.stream, end.sequence, end.message)

    async def tidy(self, keep: timedelta) -> int:
        """Delete what was published longer ago than `keep`, a few at a time: how many events."""
        total = 0
        while True:
            deleted = _count(await self._database.execute(queries.tidy, keep, _AT_ONCE))
            total += deleted
            if deleted < _AT_ONCE:
                return total
            await asyncio.sleep(0.1)

    def __repr__(self) -> str:
        return f"<Outbox of {self._source}>"


def _count(tag: str) -> int:
    """Of PostgreSQL's tag: `UPDATE 3`."""
    return int(tag.rpartition(" ")[2])
