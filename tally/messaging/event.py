"""An event: what happened to one subject, as CloudEvents 1.0 has it, with all that a consumer needs to know of it.

The JSON is CloudEvents' own ("structured mode"), and its id is also the message's id in the stream. What CloudEvents
leaves to extensions is here: (`incarnation`, `entityversion`) orders the events of a subject, whatever order they
arrive in; `traceparent` is the request that caused it, if somebody records that; `actor` is who asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from tally.chassis.body import check_time

#: All events are published below this subject: ``tally.event.<entity>.<change>.<id>``.
PREFIX: Final = "tally.event"
#: Of an event that no database tells: nothing of it is ever restored.
NO_INCARNATION: Final = UUID(int=0)


class Event(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One CloudEvent. ``type`` is ``<entity>.<change>``: ``author.updated``, ``attendance.confirmed``."""

    specversion: str = msgspec.field(default_factory=lambda: "1.0")
    """Always written: a default made by a factory is not omitted."""
    id: UUID
    source: str
    """The service that tells it: ``/tally/author``."""
    type: Annotated[str, Meta(pattern=r"^[a-z0-9_-]+\.[a-z0-9_-]+\Z")]
    time: Annotated[datetime, Meta(tz=True)]
    subject: UUID
    """The entity, or the operation, that it happened to."""
    datacontenttype: str = msgspec.field(default_factory=lambda: "application/json")
    incarnation: UUID
    """The life of the database that told it; a later life has a greater id."""
    entityversion: Annotated[int, Meta(ge=0, le=2**57)]
    """Where it is the time in microseconds, as of operations: within the calendar."""
    traceparent: str | None = None
    actor: str | None = None
    data: dict[str, Any]

    @property
    def entity(self) -> str:
        return self.type.partition(".")[0]

    @property
    def change(self) -> str:
        return self.type.partition(".")[2]

    @property
    def order(self) -> tuple[UUID, int]:
        """What the events of one subject are compared by."""
        return (self.incarnation, self.entityversion)

    @property
    def stream_subject(self) -> str:
        """Where it is published."""
        return f"{PREFIX}.{self.type}.{self.subject}"


def newest(events: Iterable[Event]) -> list[Event]:
    """The last word on each subject: a statement can write a row only once."""
    found: dict[tuple[str, UUID], Event] = {}
    for event in events:
        key = (event.entity, event.subject)
        if key not in found or found[key].order < event.order:
            found[key] = event
    return list(found.values())


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)


def encode(event: Event) -> bytes:
    return _encoder.encode(event)


def decode(body: bytes) -> Event:
    """The event; a ValueError says what is wrong with the body (msgspec's, or that a text in it is no UTF-8)."""
    event = _decoder.decode(body)
    try:
        check_time(event.time)
    except OverflowError:
        raise ValueError("its time is outside the years 1 to 9999 (UTC)") from None
    return event
