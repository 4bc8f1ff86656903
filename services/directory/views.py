"""What is shown of authors, conferences and events: never an e-mail address, which is nobody's but the author's."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final
from uuid import UUID

from msgspec import Meta, Struct

from services.directory.reading import AsOf, LagS
from tally.chassis.database import Record
from tally.chassis.http import QueryParameter


class Author(Struct, frozen=True, kw_only=True):
    id: UUID
    full_name: str
    version: int
    attendances: Annotated[int, Meta(description="How many events the author attends.")]


class AuthorAnswer(Author, frozen=True, kw_only=True):
    as_of: AsOf
    lag_s: LagS


class Attendee(Author, frozen=True, kw_only=True):
    """An author who attends something, with the attendance."""

    operation: UUID
    since: datetime


class CoAttendee(Author, frozen=True, kw_only=True):
    together: Annotated[int, Meta(description="How many events both attend.")]


class ConferenceAttendee(Author, frozen=True, kw_only=True):
    events: Annotated[int, Meta(description="How many of the conference's events the author attends.")]


class Card(Struct, frozen=True, kw_only=True):
    """The conference of an event."""

    id: UUID
    acronym: str
    name: str | None


class Conference(Card, frozen=True, kw_only=True):
    version: int
    events: Annotated[int, Meta(description="How many events it has.")]


class ConferenceAnswer(Conference, frozen=True, kw_only=True):
    as_of: AsOf
    lag_s: LagS


class Event(Struct, frozen=True, kw_only=True):
    id: UUID
    conference: Annotated[Card | None, Meta(description="null as long as it has not been told of.")]
    seq: int
    title: str | None
    starts_at: datetime | None
    capacity: int | None
    version: int
    attendees: Annotated[int, Meta(description="How many attend it.")]


class EventAnswer(Event, frozen=True, kw_only=True):
    as_of: AsOf
    lag_s: LagS


class AttendedEvent(Event, frozen=True, kw_only=True):
    """An event that somebody attends, with the attendance."""

    operation: UUID
    since: datetime


FROM: Final = QueryParameter("from", "Only what begins at that time or later.", Annotated[datetime, Meta(tz=True)])
TO: Final = QueryParameter("to", "Only what begins before that time.", Annotated[datetime, Meta(tz=True)])
CONFERENCE: Final = QueryParameter("conference_id", "Only events of this conference.", UUID)


def plain(row: Record) -> dict[str, Any]:
    """A row whose columns are what is shown."""
    return dict(row.items())


def event(row: Record) -> dict[str, Any]:
    """A row of an event, its conference in one piece."""
    shown = plain(row)
    id, acronym, name = shown.pop("conference_id"), shown.pop("acronym"), shown.pop("conference_name")
    shown["conference"] = None if acronym is None else {"id": id, "acronym": acronym, "name": name}
    return shown
