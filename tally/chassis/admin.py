"""What operators may do to a running service, on its admin port: look at breakers, and hold them in a state.

Assumes the guard around each handler; who is let in is the guard's business.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.body import json_body
from tally.chassis.calls import Calls
from tally.chassis.http import Route, json_response
from tally.chassis.problems import Problem
from tally.resilience.breaker import Mode
from tally.resilience.policy import PolicySnapshot


class Force(Struct, frozen=True):
    """`auto` gives a breaker back to its own judgement."""

    mode: Annotated[Mode, Meta(description="auto, forced_open, forced_closed or observe.")]


def breaker_routes(calls: Calls, guard: Guard) -> list[Route]:
    """The breakers of a service, by the peer that is called and the kind of call."""

    async def show(request: Request) -> Response:
        return json_response({"items": calls.snapshot()})

    async def force(request: Request) -> Response:
        peer, kind = request.path_params["peer"], request.path_params["kind"]
        body = await json_body(request, Force)
        if not calls.force(peer, kind, body.mode):
            raise Problem("not-found", f"There is no breaker for calls of kind {kind} to {peer}.")
        return json_response(next(one for one in calls.snapshot() if (one.peer, one.kind) == (peer, kind)))

    problems = ("unauthenticated", "forbidden")
    return [
        Route("GET", "/admin/breakers", guard(show), "How all breakers stand.", problems=problems, tags=("admin",)),
        Route(
            "PUT",
            "/admin/breakers/{peer}/{kind}",
            guard(force),
            "Hold a breaker in a state, or free it.",
            request=Force,
            response=PolicySnapshot,
            problems=(*problems, "not-found"),
            tags=("admin",),
        ),
    ]
