"""What an operator does about the outbox of a running service, on its admin port: see how it stands, publish again.

Assumes the guard around each handler; who is let in is the guard's business.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.body import json_body
from tally.chassis.http import Route, json_response
from tally.messaging.outbox import Outbox, OutboxStatus

#: So many events are marked by one request, which has a deadline.
_AT_ONCE: Final = 10_000


class Republish(Struct, frozen=True):
    """Which events are published once more."""

    since: Annotated[datetime, Meta(tz=True, description="Those written since then, with a time zone.")]
    before: Annotated[
        Annotated[datetime, Meta(tz=True)] | None,
        Meta(description="Not those published after it, as relays do meanwhile; to go on, what the last answer said."),
    ] = None


class Republished(Struct, frozen=True):
    """What will be published again. Not ``complete``: there is more, for the same moments."""

    events: int
    since: datetime
    before: datetime
    complete: bool


def outbox_routes(outbox: Outbox, mode: str, guard: Guard) -> list[Route]:
    """The outbox of a service. `mode` is how it is published: outbox or wal."""

    async def status(request: Request) -> Response:
        waiting = await outbox.waiting()
        return json_response(OutboxStatus(mode, waiting.rows, waiting.oldest))

    async def republish(request: Request) -> Response:
        asked = await json_body(request, Republish)
        since, before = asked.since.astimezone(UTC), asked.before or await outbox.now()
        events = await outbox.republish(since, before, most=_AT_ONCE)
        return json_response(Republished(events, since, before, complete=events < _AT_ONCE))

    problems = ("unauthenticated", "forbidden")
    return [
        Route(
            "GET",
            "/admin/outbox",
            guard(status),
            "How many events wait to be published.",
            response=OutboxStatus,
            problems=problems,
            tags=("admin",),
        ),
        Route(
            "POST",
            "/admin/outbox/republish",
            guard(republish),
            "Publish events once more.",
            request=Republish,
            response=Republished,
            problems=problems,
            tags=("admin",),
        ),
    ]
