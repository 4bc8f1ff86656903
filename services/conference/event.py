"""The event of a conference: what is posted, patched and shown."""

from __future__ import annotations

from datetime import datetime
from importlib.resources import files
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis.body import VISIBLE
from tally.chassis.http import QueryParameter
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource, Violation

_INT_MAX = 2**31 - 1

Seq = Annotated[int, Meta(ge=1, le=_INT_MAX, description="Its number within the conference.")]
Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE, description="What it is called.")]
StartsAt = Annotated[datetime, Meta(tz=True, description="When it begins (RFC 3339, with an offset).")]
Capacity = Annotated[int, Meta(ge=0, le=_INT_MAX, description="How many may attend; null is no limit.")]


class NewEvent(Struct, frozen=True):
    conference_id: UUID
    seq: Seq
    title: Title | None = None
    starts_at: StartsAt | None = None
    capacity: Capacity | None = None


class EventPatch(Struct, frozen=True):
    seq: Seq | UnsetType = UNSET
    title: Title | UnsetType | None = UNSET
    starts_at: StartsAt | UnsetType | None = UNSET
    capacity: Capacity | UnsetType | None = UNSET


class Event(Struct, frozen=True):
    id: UUID
    conference_id: UUID
    seq: int
    title: str | None
    starts_at: datetime | None
    capacity: int | None
    seats_taken: int
    version: int


EVENT = Resource(
    name="event",
    create=NewEvent,
    patch=EventPatch,
    view=Event,
    queries=load_queries(files("services.conference").joinpath("event.sql")),
    not_found="event-not-found",
    constraints={
        "event_seq": Violation("already-exists", "The conference has an event with this number.", "seq"),
        "event_conference": Violation("conference-not-found", "There is no such conference.", "conference_id"),
        "attendance_seat_capacity": Violation(
            "capacity-below-taken", "More seats are taken than this capacity.", "capacity"
        ),
    },
    filters=(QueryParameter("conference_id", "Only the events of this conference.", UUID),),
    volatile=("seats_taken",),
)
