"""Events, and who attends them."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.directory import views
from services.directory.listing import BEGINNING, MOST, Listing, Order
from services.directory.reading import Reading, list_of, queries, read
from tally.chassis.http import Route, path_uuid, query_value
from tally.chassis.problems import Problem

_EVENTS: Final = Listing(
    "event",
    {
        "id": Order("e.id", UUID(int=0)),
        "attendees": Order("e.attendees", MOST, descending=True),
        "starts_at": Order("coalesce(e.starts_at, 'infinity')", BEGINNING),
    },
    found=("$4::uuid IS NULL", "e.conference = $4"),
)
_ATTENDEES: Final = Listing(
    "event_attendance",
    {"since": Order("a.operation", UUID(int=0)), "name": Order('b.full_name COLLATE "C"', "")},
    id="operation",
)


class Events:
    """The routes."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._database = reading.database

    def routes(self) -> list[Route]:
        one = ("event-not-found",)
        return [
            read(
                "/event", self._page, "Events; by attendees, the most of them first.",
                list_of(views.Event, "EventPage"), query=(_EVENTS.sort, views.CONFERENCE, views.FROM, views.TO),
            ),
            read("/event/{id}", self._one, "One event.", views.EventAnswer, problems=one, paged=False),
            read(
                "/event/{id}/attendance", self._attendance, "Who attends an event.",
                list_of(views.Attendee, "AttendeePage"), query=(_ATTENDEES.sort,), problems=one,
            ),
        ]  # fmt: skip

    async def _page(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        filters = [query_value(request, one) for one in (views.CONFERENCE, views.FROM, views.TO)]
        page = await _EVENTS.page(self._database, request, *filters)
        return await self._reading.page(request, page, views.event, headers)

    async def _one(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        return await self._reading.one(request, await self._event(request), headers)

    async def _attendance(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        event = (await self._event(request))["id"]
        page = await _ATTENDEES.page(self._database, request, event)
        return await self._reading.page(request, page, views.plain, headers)

    async def _event(self, request: Request) -> dict[str, object]:
        id = path_uuid(request, "id")
        row = await self._database.fetchrow(queries.event, id)
        if row is None:
            raise Problem("event-not-found", f"There is no event {id}.")
        return views.event(row)
