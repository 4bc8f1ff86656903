"""Cascades: deleting an author, an event or a conference ends attendances one by one; here that is one operation.

Its id is that of the deletion's event. It is `started` with the list of what it will end, and `completed`, with what it
has ended, when the last of that is cancelled in the view. An attendance that is told of after the deletion joins it.

Assumes that the live view has applied the same events before, in the same transaction, and each only once.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Final
from uuid import UUID

from services.directory import log
from services.directory.states import Row
from tally.chassis.database import Connection
from tally.chassis.queries import load_queries
from tally.messaging.event import Event
from tally.messaging.inbox import Delivered

_CASCADING: Final = ("author", "event", "conference")
_queries: Final = {
    entity: load_queries(files("services.directory").joinpath("saga.sql"), entity=entity) for entity in _CASCADING
}
_common: Final = _queries["author"]


async def apply(tx: Connection, delivered: Sequence[Delivered]) -> None:
    """Begins, extends and completes the cascades that these events are about."""
    events = [one.event for one in delivered]
    touched = [await _begin(tx, one) for one in events if one.entity in _CASCADING and one.change == "deleted"]
    if attendances := [one for one in events if one.entity == "attendance"]:
        await tx.execute(_common.join_in, [one.subject for one in attendances])
        cancelled = [one.subject for one in attendances if one.change == "cancelled"]
        touched += [row["saga"] for row in await tx.fetch(_common.end_steps, cancelled)]
    if touched:
        await _complete(tx, touched, events[-1])


async def _begin(tx: Connection, event: Event) -> UUID:
    if await tx.fetchval(_common.begin, event.id, event.entity, event.subject, event.traceparent) is not None:
        ends = await tx.fetch(_queries[event.entity].ends, event.id, event.subject)
        detail = {
            "entity": event.entity,
            "id": event.subject,
            "actor": event.actor,
            "attendances": [row["operation"] for row in ends],
        }
        started = Row(event.id, "started", event.time, event.id, detail=detail, trace=event.traceparent)
        await log.append(tx, [started])
    return event.id


async def _complete(tx: Connection, sagas: Sequence[UUID], last: Event) -> None:
    """``last`` is the event by which it became known."""
    rows = await tx.fetch(_common.completed, sagas)
    await log.append(
        tx,
        [
            Row(
                row["id"],
                "completed",
                last.time,
                last.id,
                detail={"attendances": row["attendances"]},
                trace=row["trace"],
            )
            for row in rows
        ],
    )
