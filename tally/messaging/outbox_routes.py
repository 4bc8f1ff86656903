"""What an operator does about the outbox of a running service, on its admin port: see how it stands, publish again.

Assumes the guard around each handler; who is let in is the guard's business.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.auth import Guard
from tally.chassis.body import json_body
from tally.chassis.http import Route, json_response
from tally.messaging.outbox import Outbox, OutboxStatus


class Republish(Struct, frozen=True):
    """Which events are published once more."""

    since: Annotated[datetime, Meta(tz=True, description="Those written since then, with a time zone.")]


class Republished(Struct, frozen=True):
    """What will be published again."""

    events: int
    since: datetime


def outbox_routes(outbox: Outbox, mode: str, guard: Guard) -> list[Route]:
    """The outbox of a service. `mode` is how it is published: outbox or wal."""

    async def status(request: Request) -> Response:
        waiting = await outbox.waiting()
        return json_response(OutboxStatus(mode, waiting.rows, waiting.oldest))

    async def republish(request: Request) -> Response:
        since = (await json_body(request, Republish)).since.astimezone(UTC)
        return json_response(Republished(await outbox.republish(since), since))

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
