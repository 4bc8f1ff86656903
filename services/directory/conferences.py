"""Conferences, and who attends any of their events."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from services.directory import views
from services.directory.listing import Listing, Order
from services.directory.reading import Reading, list_of, queries, read
from tally.chassis.http import Route, path_uuid
from tally.chassis.problems import Problem

_CONFERENCES: Final = Listing(
    "conference", {"id": Order("c.id", UUID(int=0)), "acronym": Order('c.acronym COLLATE "C"', "")}
)
_ATTENDEES: Final = Listing("conference_attendee", {"id": Order("a.author", UUID(int=0))})


class Conferences:
    """The routes."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._database = reading.database

    def routes(self) -> list[Route]:
        one = ("conference-not-found",)
        return [
            read(
                "/conference", self._page, "Conferences.", list_of(views.Conference, "ConferencePage"),
                query=(_CONFERENCES.sort,),
            ),
            read("/conference/{id}", self._one, "One conference.", views.ConferenceAnswer, problems=one, paged=False),
            read(
                "/conference/{id}/attendee", self._attendee, "Who attends any event of a conference, once each.",
                list_of(views.ConferenceAttendee, "ConferenceAttendeePage"), problems=one,
            ),
        ]  # fmt: skip

    async def _page(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        page = await _CONFERENCES.page(self._database, request)
        return await self._reading.page(request, page, views.plain, headers)

    async def _one(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        return await self._reading.one(request, await self._conference(request), headers)

    async def _attendee(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        conference = (await self._conference(request))["id"]
        page = await _ATTENDEES.page(self._database, request, conference)
        return await self._reading.page(request, page, views.plain, headers)

    async def _conference(self, request: Request) -> dict[str, object]:
        id = path_uuid(request, "id")
        row = await self._database.fetchrow(queries.conference, id)
        if row is None:
            raise Problem("conference-not-found", f"There is no conference {id}.")
        return views.plain(row)
