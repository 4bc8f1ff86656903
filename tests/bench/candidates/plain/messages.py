"""What the plain services say to each other, in JSON by msgspec."""

from uuid import UUID

import msgspec
from starlette.responses import Response


class Attendance(msgspec.Struct):
    op: UUID
    event: UUID
    author: UUID


class AuthorIds(msgspec.Struct):
    ids: list[UUID]


class Person(msgspec.Struct):
    id: UUID
    full_name: str
    email: str | None
    version: int


class Event(msgspec.Struct):
    id: UUID
    conference_id: UUID
    seq: int
    title: str | None
    version: int


class EventAuthors(msgspec.Struct):
    event: Event
    authors: list[UUID]


class EventAttendance(msgspec.Struct):
    event: Event
    attendees: list[Person]


def json(content: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")
