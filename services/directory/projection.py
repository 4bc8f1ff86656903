"""The read view as a function of events: authors, conferences, events and attendances, in one schema of the database.

Assumes nothing of the order in which events of different subjects come, and nothing of whether one came before: each
row remembers what it was last told by. So the same code serves the live view and a rebuild, and whatever the
interleaving was, the view is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from tally.chassis.clock import utc
from tally.chassis.database import Connection
from tally.chassis.queries import Queries, load_queries
from tally.messaging.digest import Table
from tally.messaging.event import PREFIX, Event, newest
from tally.messaging.inbox import Delivered
from tally.protocol import operation

#: What the view is told by.
SUBJECTS: Final = tuple(f"{PREFIX}.{entity}.>" for entity in ("author", "conference", "event", "attendance"))

#: What of the view must equal the owners' data.
TABLES: Final = (
    Table("author", ("id", "full_name", "version"), "shown"),
    Table("conference", ("id", "acronym", "name", "version"), "shown"),
    Table(
        "event", ("id", "conference", "seq", "title", "extract(epoch from starts_at)", "capacity", "version"), "shown"
    ),
    Table("attendance", ("operation", "author", "event"), "live"),
)


class Projection:
    """The view in ``schema``."""

    def __init__(self, schema: str) -> None:
        self._queries = queries_of(schema)
        self.schema = schema

    async def apply(self, tx: Connection, delivered: Sequence[Delivered]) -> None:
        """What these events tell, in the caller's transaction. An event that tells less than it must raises."""
        told = newest(one.event for one in delivered)
        for entity, query in _QUERIES.items():
            if rows := [_ROW[entity](event) for event in told if event.entity == entity]:
                await tx.execute(getattr(self._queries, query), *(list(column) for column in zip(*rows, strict=True)))

    async def empty(self, tx: Connection) -> None:
        """Forget everything."""
        await tx.execute(self._queries.empty)

    def __repr__(self) -> str:
        return f"<Projection {self.schema}>"


def queries_of(schema: str) -> Queries:
    return load_queries(files("services.directory").joinpath("projection.sql"), schema=schema)


def _author(event: Event) -> tuple[Any, ...]:
    return (event.subject, str(event.data["full_name"]), *event.order, event.change == "deleted")


def _conference(event: Event) -> tuple[Any, ...]:
    data = event.data
    return (event.subject, str(data["acronym"]), data.get("name"), *event.order, event.change == "deleted")


def _event(event: Event) -> tuple[Any, ...]:
    data = event.data
    starts_at = data.get("starts_at")
    return (
        event.subject,
        UUID(data["conference_id"]),
        int(data["seq"]),
        data.get("title"),
        None if starts_at is None else datetime.fromisoformat(starts_at),
        data.get("capacity"),
        *event.order,
        event.change == "deleted",
    )


def _attendance(event: Event) -> tuple[Any, ...]:
    data, live = event.data, event.change == "confirmed"
    return (
        event.subject,
        UUID(data["author"]),
        UUID(data["event"]),
        live,
        utc(operation.time_ms(event.subject)),
        None if live else event.time,
        data.get("reason"),
        *event.order,
    )


#: In this order, so that an attendance finds its event's conference in the same batch.
_QUERIES: Final = {
    "author": "put_authors",
    "conference": "put_conferences",
    "event": "put_events",
    "attendance": "put_attendances",
}
_ROW: Final[dict[str, Callable[[Event], tuple[Any, ...]]]] = {
    "author": _author,
    "conference": _conference,
    "event": _event,
    "attendance": _attendance,
}
