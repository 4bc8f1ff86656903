"""What operators may do to deferred operations, on the gateway's admin port: try one now, or give it up.

Any replica takes the order. It is noted where the one that holds the operation looks before each step, and once a
second while it waits. Assumes the guard around each handler.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Literal
from uuid import UUID

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.http import Route, json_response, path_uuid
from tally.chassis.problems import Problem
from tally.gateway.notes import Notes, Order
from tally.gateway.operations import FINAL, Operations, Standing
from tally.messaging.stream import StreamUnavailable


class Ordered(Struct, frozen=True):
    """An order that was taken. It ends the operation, or begins its next attempt, when its turn has come."""

    id: UUID
    state: Literal["deferred", "abandoned"]
    ordered: Literal["retry", "abandon"]


class Control:
    """Orders for the deferred operations of one relationship."""

    def __init__(self, operations: Operations, notes: Notes) -> None:
        self._operations = operations
        self._notes = notes

    def routes(self, guard: Guard) -> list[Route]:
        problems = ("not-a-uuid", "operation-not-found", "operation-ended", "service-unavailable")
        guarded = ("unauthenticated", "forbidden")

        def route(order: Order, summary: str) -> Route:
            async def handle(request: Request) -> Response:
                return await self.take(path_uuid(request, "operation"), order)

            return Route(
                "POST",
                f"/admin/operations/{{operation}}/{order}",
                guard(handle),
                summary,
                response=Ordered,
                status=HTTPStatus.ACCEPTED,
                problems=(*problems, *guarded),
                tags=("admin",),
            )

        return [
            route("retry", "Try a deferred operation now; one that was parked is queued again."),
            route("abandon", "Give a deferred operation up, unless it is carried out before that."),
        ]

    async def take(self, id: UUID, order: Order) -> Response:
        """The answer to an order, which may be a problem."""
        try:
            standing = await self._operations.standing(id)
            if standing is None:
                raise Problem("operation-not-found", f"No operation {id} was deferred.", operation=id)
            if standing.state in FINAL:
                raise Problem("operation-ended", f"The operation has ended: it is {standing.state}.", operation=id)
            state = await self._parked(standing, order) if standing.state == "parked" else await self._noted(id, order)
        except StreamUnavailable as error:
            raise Problem("service-unavailable", "The event stream can't be reached.", service="stream") from error
        return json_response(Ordered(id, state, order), HTTPStatus.ACCEPTED)

    async def _noted(self, id: UUID, order: Order) -> Literal["deferred"]:
        await self._notes.give(id, order)
        return "deferred"

    async def _parked(self, standing: Standing, order: Order) -> Literal["deferred", "abandoned"]:
        """Nobody holds it, so the order is carried out here."""
        if order == "retry":
            # (What was ordered before it was parked would end it otherwise.)
            await self._notes.give(standing.deferral.operation, order)
            await self._operations.defer(standing.deferral, again=standing.version)
            return "deferred"
        await self._operations.tell_end(standing.deferral, "abandoned", {}, after=standing.version)
        return "abandoned"
