"""What events tell of operations: a pure function from an event to rows of the operation log.

Assumes the table `operation_kind`, which says what the states mean. An operation's id tells when it was requested.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from msgspec import Struct

from tally.chassis.clock import utc
from tally.messaging.event import PREFIX, Event
from tally.protocol import operation

#: What the log is told by.
SUBJECTS: Final = tuple(f"{PREFIX}.{entity}.>" for entity in ("attendance", "operation"))
#: What `operation_kind` knows of single operations: a test compares them.
STATES: Final = (
    "requested", "deferred", "retried", "parked", "unknown", "recorded", "confirmed",
    "refused", "voided", "rejected", "abandoned", "cancelled",
)  # fmt: skip
#: The states of a cascade.
SAGA_STATES: Final = ("started", "completed")
#: States that an operation does not leave by itself.
FINAL: Final = frozenset({"confirmed", "refused", "voided", "rejected", "abandoned", "cancelled", "completed"})
#: Members of an event's data that have columns of their own.
_COLUMNS: Final = frozenset({"operation", "state", "at", "reason", "service", "attempt", "author", "event", "actor"})
_REPORTED: Final = _COLUMNS | {"traceparent"}
#: Versions of UUIDs that begin with a time: 8 is a deferred operation's.
_TIMED: Final = (7, 8)


class Row(Struct, frozen=True):
    """One state of one operation; its fields are the parameters of `append`, in this order."""

    operation: UUID
    state: str
    at: datetime
    event_id: UUID
    reason: str | None = None
    service: str | None = None
    attempt: UUID | None = None
    author: UUID | None = None
    event: UUID | None = None
    detail: dict[str, Any] | None = None
    trace: str | None = None


def rows_of(event: Event) -> Iterator[Row]:
    """The states that an event tells. Raises KeyError or ValueError for one that tells less than it must."""
    match event.type:
        case "operation.reported":
            for item in event.data["items"]:
                yield _reported(event, item)
        case "attendance.confirmed" | "attendance.cancelled":
            yield _row(event, event.change, event.data)
        case _ if event.entity == "operation" and event.change in STATES:
            yield _row(event, event.change, event.data)


def requested_at(id: UUID) -> datetime | None:
    """When an operation was requested; None for an id that does not tell."""
    return utc(operation.time_ms(id)) if id.version in _TIMED else None


def _row(event: Event, state: str, data: dict[str, Any]) -> Row:
    code = data.get("reason", data.get("code"))
    attempt = _uuid(data.get("attempt"))
    more = {name: value for name, value in data.items() if name not in _COLUMNS}
    if attempt is None and "attempt" in data:
        more["attempt"] = data["attempt"]
    return Row(
        operation=event.subject,
        state=state,
        at=event.time,
        event_id=event.id,
        reason=None if code is None else str(code),
        service=data.get("service"),
        attempt=attempt,
        author=_uuid(data.get("author")),
        event=_uuid(data.get("event")),
        detail=more or None,
        trace=event.traceparent,
    )


def _reported(event: Event, item: dict[str, Any]) -> Row:
    state = item["state"]
    if state not in STATES:
        raise ValueError(f"{state!r} is not the state of an operation")
    more = {name: value for name, value in item.items() if name not in _REPORTED}
    return Row(
        operation=UUID(item["operation"]),
        state=state,
        at=datetime.fromisoformat(item["at"]),
        event_id=event.id,
        reason=item.get("reason"),
        service=item.get("service"),
        author=_uuid(item.get("author")),
        event=_uuid(item.get("event")),
        detail=more or None,
        trace=item.get("traceparent"),
    )


def _uuid(text: Any) -> UUID | None:
    try:
        return UUID(text)
    except (AttributeError, TypeError, ValueError):
        return None
