"""Admin routes of every service that consumes events: what could not be applied, and what to do about it.

Assumes the guard around each handler. Any process of a service answers, whichever consumes: what is parked is in the
database.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.http import Route, json_response
from tally.chassis.problems import Problem
from tally.messaging.inbox import Inbox
from tally.messaging.journal import Parked, Retried

#: How much of what one consumer parked is shown: the oldest.
SHOWN_MAX: Final = 500
#: Below every place in the stream; what is parked from a stream that is gone has places below zero.
_BEFORE_ALL: Final = -(2**63)


class ParkedMessages(Struct, frozen=True):
    """The oldest messages of each consumer that wait for somebody."""

    items: list[Parked]


def parked_routes(inboxes: Sequence[Inbox], guard: Guard) -> list[Route]:
    """Look at what the inboxes parked; try it again; give it up."""
    by_name = {inbox.name: inbox for inbox in inboxes}

    async def show(request: Request) -> Response:
        items: list[Parked] = []
        for inbox in inboxes:
            items += await inbox.parked(_BEFORE_ALL, SHOWN_MAX)
        return json_response(ParkedMessages(items))

    async def retry(request: Request) -> Response:
        inbox, sequence = _asked(request)
        retried = await inbox.retry(sequence)
        if retried is None:
            raise _not_parked(inbox.name, sequence)
        return json_response(retried)

    async def drop(request: Request) -> Response:
        inbox, sequence = _asked(request)
        if not await inbox.drop(sequence):
            raise _not_parked(inbox.name, sequence)
        return Response(status_code=204)

    def _asked(request: Request) -> tuple[Inbox, int]:
        name, sequence = request.path_params["consumer"], request.path_params["sequence"]
        inbox = by_name.get(name)
        if inbox is None:
            raise Problem("not-found", f"There is no consumer {name}, only {', '.join(by_name)}.")
        try:
            return inbox, int(sequence)
        except ValueError:
            raise _not_parked(name, sequence) from None

    problems = ("unauthenticated", "forbidden")
    one = "/admin/parked/{consumer}/{sequence}"
    return [
        Route(
            "GET",
            "/admin/parked",
            guard(show),
            "Messages that could not be applied, and those that wait behind them.",
            response=ParkedMessages,
            problems=problems,
            tags=("admin",),
        ),
        Route(
            "POST",
            f"{one}/retry",
            guard(retry),
            "Apply a parked message and all that waits of its subject, the oldest first, until one fails.",
            response=Retried,
            problems=(*problems, "not-found", "contended", "service-unavailable"),
            tags=("admin",),
        ),
        Route(
            "DELETE",
            one,
            guard(drop),
            "Give a parked message up for good; what waits behind it goes on waiting.",
            status=204,
            problems=(*problems, "not-found", "contended", "service-unavailable"),
            tags=("admin",),
        ),
    ]


def _not_parked(name: str, sequence: object) -> Problem:
    return Problem("not-found", f"The consumer {name} has not parked message {sequence}.")
