"""The audit trail: who did what to which entity when, from every event, in the order of the stream, as a hash chain.

Assumes an inbox that hands over every event, and not only the newest of each entity. What the chain proves stands in
`chain.py`; that rows are only added is the table's own trigger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from services.directory import chain
from services.directory.chain import Broken, Entry
from services.directory.states import rows_of
from tally.chassis.database import Connection, Database, Record
from tally.chassis.queries import load_queries
from tally.messaging.event import PREFIX, Event
from tally.messaging.inbox import Delivered

#: What the trail is told by.
SUBJECTS: Final = (f"{PREFIX}.>",)
#: How many rows one question verifies.
BATCH_MAX: Final = 5000

_queries: Final = load_queries(files("services.directory").joinpath("audit.sql"))
_FIELDS: Final = Entry.__struct_fields__


class Verified(Struct, frozen=True):
    """How far the chain was walked, whether that was all, and what broke it."""

    seq: int
    hash: str
    complete: bool
    broken: Broken | None = None


async def apply(tx: Connection, delivered: Sequence[Delivered]) -> None:
    """Adds what these events tell to the end of the chain."""
    head = await tx.fetchrow(_queries.head)
    assert head is not None, "the migration made it"
    seq, before = head["seq"], head["hash"]
    # A stream that is read from its beginning again has events that the inbox has seen too long ago to remember.
    known = {row["event_id"] for row in await tx.fetch(_queries.known, [one.event.id for one in delivered])}
    rows: list[tuple[Entry, bytes]] = []
    for one in delivered:
        for told in _entries(one) if one.event.id not in known else ():
            seq += 1
            entry = Entry(seq=seq, sequence=one.sequence, **told)
            before = chain.link(before, entry)
            rows.append((entry, before))
    if rows:
        columns = [[getattr(entry, name) for entry, _ in rows] for name in _FIELDS]
        await tx.execute(_queries.append, *columns, [hash for _, hash in rows])
        await tx.execute(_queries.move, seq, before)


def _entries(delivered: Delivered) -> Iterator[dict[str, Any]]:
    """A report of many operations is one entry for each."""
    event = delivered.event
    if event.type != "operation.reported":
        yield _told(event, event.type, event.subject, event.time, event.actor, event.traceparent, event.data)
        return
    for item, row in zip(event.data["items"], rows_of(event), strict=True):
        yield _told(event, f"operation.{row.state}", row.operation, row.at, item.get("actor"), row.trace, item)


def _told(
    event: Event, type: str, subject: UUID, at: datetime, actor: str | None, trace: str | None, data: dict[str, Any]
) -> dict[str, Any]:
    return {
        "at": at,
        "actor": actor,
        "type": type,
        "entity": event.entity,
        "subject": subject,
        "version": event.entityversion,
        "event_id": event.id,
        "source": event.source,
        "trace": trace,
        "data": chain.canonical_data(data),
    }


async def verify(database: Database, after: int, limit: int) -> Verified:
    """Walks the rows behind row ``after``, which was verified before."""
    async with database.transaction("repeatable read", read_only=True) as tx:
        before = chain.ORIGIN if not after else await tx.fetchval(_queries.hash_of, after)
        if before is None:
            return Verified(after - 1, "", False, Broken(after, "it is missing"))
        rows = await tx.fetch(_queries.walk, after, limit)
        head = await tx.fetchrow(_queries.ends)
    assert head is not None, "the migration made it"
    seq, last, broken = chain.verify(after, before, ((_entry(row), row["hash"]) for row in rows))
    complete = broken is None and len(rows) < limit
    if complete and (seq, last) != (head["seq"], head["hash"]):
        broken = Broken(seq + 1, f"it is missing: the chain should end with row {head['seq']}")
    return Verified(seq, last.hex(), complete and broken is None, broken)


async def page(
    database: Database, after: int, limit: int, entity: str | None, subject: UUID | None, actor: str | None
) -> list[Entry]:
    """Entries in their order, filtered by what is not None."""
    query = _queries.page
    if entity is not None and subject is not None:
        query = _queries.page_of_subject
    elif actor is not None:
        query = _queries.page_of_actor
    return [_entry(row) for row in await database.fetch(query, after, limit, entity, subject, actor)]


def _entry(row: Record) -> Entry:
    return Entry(**{name: row[name] for name in _FIELDS})
