"""Authors, what they attend, and whom they met there."""

from __future__ import annotations

from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from services.directory import views
from services.directory.listing import BEGINNING, MOST, Listing, Order
from services.directory.reading import Reading, list_of, queries, read
from tally.chassis.body import NO_NUL
from tally.chassis.http import QueryParameter, Route, path_uuid, query_value
from tally.chassis.problems import Problem

NAME: Final = QueryParameter(
    "name",
    'Words of the name, as a search engine takes them: `turing -alan`, `"ada lovelace"`, `ada or grace`.',
    Annotated[str, Meta(max_length=200, pattern=NO_NUL)],
)
_AUTHORS: Final = Listing(
    "author",
    {
        "id": Order("a.id", UUID(int=0)),
        "name": Order('a.full_name COLLATE "C"', ""),
        "attendances": Order("a.attendances", MOST, descending=True),
    },
    found=("$4::text IS NULL", "a.words @@ websearch_to_tsquery('simple', $4)"),
)
_ATTENDANCES: Final = Listing(
    "author_attendance",
    {
        "since": Order("a.operation", UUID(int=0)),
        "starts_at": Order("coalesce(e.starts_at, 'infinity')", BEGINNING),
        "attendees": Order("e.attendees", MOST, descending=True),
    },
    id="operation",
)
_CO_ATTENDEES: Final = Listing("co_attendee", {"together": Order("b.together", MOST, descending=True)})


class Authors:
    """The routes."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._database = reading.database

    def routes(self) -> list[Route]:
        one = ("author-not-found",)
        return [
            read(
                "/author", self._page, "Authors, searched by name.", list_of(views.Author, "AuthorPage"),
                query=(_AUTHORS.sort, NAME),
            ),
            read("/author/{id}", self._one, "One author.", views.AuthorAnswer, problems=one, paged=False),
            read(
                "/author/{id}/attendance", self._attendance, "The events that an author attends.",
                list_of(views.AttendedEvent, "AttendedEventPage"),
                query=(_ATTENDANCES.sort, views.CONFERENCE, views.FROM, views.TO), problems=one,
            ),
            read(
                "/author/{id}/co-attendee", self._co_attendee, "Who attends the same events, the most of them first.",
                list_of(views.CoAttendee, "CoAttendeePage"), query=(_CO_ATTENDEES.sort,), problems=one,
            ),
        ]  # fmt: skip

    async def _page(self, request: Request) -> Response:
        headers, name = await self._reading.waited(request), query_value(request, NAME)
        page = await _AUTHORS.page(self._database, request, name)
        return await self._reading.page(request, page, views.plain, headers)

    async def _one(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        return await self._reading.one(request, await self._author(request), headers)

    async def _attendance(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        filters = [query_value(request, one) for one in (views.CONFERENCE, views.FROM, views.TO)]
        author = (await self._author(request))["id"]
        page = await _ATTENDANCES.page(self._database, request, author, *filters)
        return await self._reading.page(request, page, views.event, headers)

    async def _co_attendee(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        author = (await self._author(request))["id"]
        page = await _CO_ATTENDEES.page(self._database, request, author, scope=(author,))
        return await self._reading.page(request, page, views.plain, headers)

    async def _author(self, request: Request) -> dict[str, object]:
        id = path_uuid(request, "id")
        row = await self._database.fetchrow(queries.author, id)
        if row is None:
            raise Problem("author-not-found", f"There is no author {id}.")
        return views.plain(row)
