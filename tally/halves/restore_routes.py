"""What an operator does about a database that was restored from a backup, on its service's admin port.

Assumes the guard around each handler; who is let in is the guard's business.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.body import json_body
from tally.chassis.http import Route, json_response
from tally.chassis.problems import Problem
from tally.halves.restore import Restorer, RestoreStatus, Skippable


class Begin(Struct, frozen=True):
    """Why the operator takes the database for an old copy."""

    reason: Annotated[str, Meta(max_length=500, description="For the report.")] = "the operator says so"


class Skip(Struct, frozen=True):
    """What to go on without."""

    what: Annotated[
        Skippable,
        Meta(description="stream: what only it knows is lost; peer: only while that is being restored itself."),
    ]


def restore_routes(restorer: Restorer, guard: Guard) -> list[Route]:
    """See how a restore stands and what it could not bring back; begin one; go on without somebody."""

    async def show(request: Request) -> Response:
        return json_response(await restorer.status())

    async def begin(request: Request) -> Response:
        await restorer.begin((await json_body(request, Begin)).reason)
        return json_response(await restorer.status())

    async def skip(request: Request) -> Response:
        if not await restorer.skip((await json_body(request, Skip)).what):
            raise Problem("not-found", "No restore is under way.")
        return json_response(await restorer.status())

    problems = ("unauthenticated", "forbidden")
    return [
        Route(
            "GET",
            "/admin/restore",
            guard(show),
            "Whether a restore is under way, and what the latest ones did and could not bring back.",
            response=RestoreStatus,
            problems=problems,
            tags=("admin",),
        ),
        Route(
            "POST",
            "/admin/restore",
            guard(begin),
            "Take the database for an old copy of itself, and make it whole.",
            request=Begin,
            response=RestoreStatus,
            problems=(*problems, "service-unavailable"),
            tags=("admin",),
        ),
        Route(
            "POST",
            "/admin/restore/skip",
            guard(skip),
            "Go on without the stream, or without a peer that is being restored itself.",
            request=Skip,
            response=RestoreStatus,
            problems=(*problems, "not-found", "service-unavailable"),
            tags=("admin",),
        ),
    ]
