"""The operation log: writes states, and says how an operation stands. Rows are only ever added; readers pick the state.

Assumes that whoever appends does so in the transaction that took the events.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from services.directory.states import Row, requested_at, rows_of
from tally.chassis.database import Connection, Database, Record
from tally.chassis.queries import load_queries
from tally.messaging.inbox import Delivered

queries: Final = load_queries(files("services.directory").joinpath("log.sql"))


class Entry(Struct, frozen=True, omit_defaults=True):
    """One state of an operation, as it is shown."""

    state: str
    at: datetime
    reason: str | None = None
    service: str | None = None
    attempt: UUID | None = None
    author: UUID | None = None
    event: UUID | None = None
    detail: dict[str, Any] | None = None
    traceparent: str | None = None


class History(Struct, frozen=True, omit_defaults=True):
    """An operation: its current state, and all that led there. ``attempt`` is the operation that carried it out."""

    id: UUID
    state: str
    history: list[Entry]
    attempt: UUID | None = None


async def apply(tx: Connection, delivered: Sequence[Delivered]) -> None:
    """What the log's inbox applies."""
    await append(tx, [row for one in delivered for row in rows_of(one.event)])


async def append(tx: Connection, rows: Sequence[Row]) -> None:
    """Adds rows, and before each operation's first that it was requested."""
    if not rows:
        return
    first = {row.operation: row for row in reversed(rows)}
    requests = [
        Row(id, "requested", at, row.event_id, author=row.author, event=row.event, trace=row.trace)
        for id, row in first.items()
        if (at := requested_at(id)) is not None
    ]
    await tx.execute(queries.append, *_columns([*requests, *rows]))
    await tx.execute(queries.refresh, list(first))


async def history(database: Database, operation: UUID) -> History | None:
    """All that is known of an operation; None if nothing is."""
    rows = await database.fetch(queries.history, operation)
    if not rows:
        return None
    attempt = next((row["attempt"] for row in reversed(rows) if row["attempt"] is not None), None)
    return History(operation, rows[-1]["state"], [entry(row) for row in rows], attempt)


def entry(row: Record) -> Entry:
    return Entry(
        row["state"], row["at"], row["reason"], row["service"], row["attempt"], row["author"], row["event"],
        row["detail"], row["trace"],
    )  # fmt: skip


def _columns(rows: Sequence[Row]) -> list[list[Any]]:
    return [[getattr(row, name) for row in rows] for name in Row.__struct_fields__]
