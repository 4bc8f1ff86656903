"""What the directory knows of operations, for the gateway's answers: history, stuck work, and operations as they go on.

Assumes nothing of the directory: an answer that can be given without it is given without it, and what only it knows
is 503 while it is away.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

import aiohttp
import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tally.chassis import context
from tally.chassis.calls import Calls
from tally.chassis.client import Client, Rejected, Reply
from tally.chassis.clock import Clock
from tally.chassis.http import (
    AFTER,
    LASTING,
    LIMIT,
    QueryParameter,
    Route,
    encoded_response,
    link,
    path_uuid,
    query_value,
)
from tally.chassis.problems import Problem
from tally.resilience.deadline import Deadline

PEER: Final = "directory"
#: What the directory calls the states of operations: it has the table of them, and a test compares.
STATES: Final = (
    "requested", "deferred", "retried", "parked", "unknown", "recorded", "confirmed", "refused", "voided", "rejected",
    "abandoned", "cancelled", "started", "completed",
)  # fmt: skip
STATE: Final = QueryParameter(
    "state",
    "The current state; if it is not given, any that is not final.",
    Annotated[str, Meta(pattern=f"^({'|'.join(STATES)})$")],
)
OLDER_THAN: Final = QueryParameter(
    "older_than",
    "Only what was requested longer ago than that: `30s`, `5m`, `2h`, `1d`.",
    Annotated[str, Meta(pattern="^[0-9]{1,5}[smhd]$")],
)
LISTENERS_MAX: Final = 256
_DEADLINE_S: Final = 2.0
#: Of the time that a request has, what its history may take: not being told is no failure.
_SHARE: Final = 0.2
_LONGEST_S: Final = 0.3
#: An operation that was just accepted is known to the directory a moment later.
_AGAIN_S: Final = 0.1
_MARGIN_S: Final = 0.3


class History(Struct, frozen=True):
    """An operation as the log has it."""

    state: str
    history: list[dict[str, Any]]
    attempt: UUID | None = None


class _Page(Struct, frozen=True):
    next: str | None


class Directory:
    """Asks the directory. ``listening`` is a client of its own, because a listener keeps a connection."""

    def __init__(self, calls: Calls, listening: Client, clock: Clock, *, known: bool = True) -> None:
        """``known``: whether anybody has said where it is."""
        self._known = known
        self._calls = calls
        self._listening = listening
        self._clock = clock
        self._open: set[aiohttp.ClientResponse] = set()

    def routes(self) -> list[Route]:
        problems = ("invalid-query", "service-unavailable", "overloaded")
        return [
            Route(
                "GET",
                "/operation",
                self._page,
                "Operations by state, as the directory tells them: what is stuck, since when and why.",
                query=(LIMIT, AFTER, STATE, OLDER_THAN),
                problems=problems,
                sends=("Link",),
                tags=("operation",),
            ),
            Route(
                "GET",
                "/operation/{operation}/events",
                self._events,
                "An operation as it goes on: server-sent events, until it has ended.",
                problems=("not-a-uuid", "operation-not-found", *problems),
                tags=("operation",),
            ),
        ]

    def close(self) -> None:
        """Hangs up on all that listens: the service stops."""
        for response in self._open:
            response.close()

    async def history(self, operation: UUID, deadline: Deadline) -> History | None:
        """What the log has of an operation; None if it has nothing, or did not say so in time."""
        if not self._known:
            return None
        now_s = self._clock.monotonic_s()
        own = Deadline.after(min(_SHARE * deadline.left_s(now_s), _LONGEST_S), now_s)
        told = await self._calls.get(PEER, f"/operation/{operation}", deadline=own)
        try:
            return msgspec.json.decode(told.body, type=History) if isinstance(told, Reply) else None
        except ValueError:
            return None

    async def _page(self, request: Request) -> Response:
        for parameter in (LIMIT, AFTER, STATE, OLDER_THAN):
            query_value(request, parameter)
        self._must_be_known()
        told = await self._calls.get(PEER, f"/operation?{request.url.query}", deadline=self._deadline())
        match told:
            case Reply(body):
                try:
                    next = msgspec.json.decode(body, type=_Page).next
                except ValueError:
                    raise _unavailable() from None
                return encoded_response(body, headers=link(request, next))
            case Rejected(code=code, detail=detail) if code in ("invalid-query", "overloaded"):
                raise Problem(code, detail, service=PEER)
            case _:
                raise _unavailable()

    async def _events(self, request: Request) -> Response:
        operation = path_uuid(request, "operation")
        self._must_be_known()
        if len(self._open) >= LISTENERS_MAX:
            raise Problem("overloaded", f"{LISTENERS_MAX} listen already.")
        deadline = self._deadline()
        last = request.headers.get("last-event-id")
        headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
        async with AsyncExitStack() as stack:
            response = await self._opened(stack, f"/operation/{operation}/events", headers, deadline)
            if response.status == HTTPStatus.NOT_FOUND:
                raise Problem("operation-not-found", f"Nothing has been told of it: {operation}.", operation=operation)
            if response.status != HTTPStatus.OK:
                raise _unavailable()
            body = self._passed_on(response, stack.pop_all())
        request.scope[LASTING] = True
        return StreamingResponse(body, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    def _deadline(self) -> Deadline:
        return context.deadline() or Deadline.after(_DEADLINE_S, self._clock.monotonic_s())

    def _must_be_known(self) -> None:
        if not self._known:
            raise _unavailable()

    async def _opened(
        self, stack: AsyncExitStack, path: str, headers: dict[str, str], deadline: Deadline
    ) -> aiohttp.ClientResponse:
        """The directory's answer; asked again while it does not know the operation, as long as there is time."""
        while True:
            left_s = deadline.left_s(self._clock.monotonic_s())
            try:
                async with asyncio.timeout(left_s):
                    response = await stack.enter_async_context(self._listening.stream(PEER, path, headers, deadline))
            except (aiohttp.ClientError, OSError) as error:
                raise _unavailable() from error
            if response.status != HTTPStatus.NOT_FOUND or left_s < _MARGIN_S + _AGAIN_S:
                return response
            await stack.aclose()
            await asyncio.sleep(_AGAIN_S)

    async def _passed_on(self, response: aiohttp.ClientResponse, stack: AsyncExitStack) -> AsyncIterator[bytes]:
        self._open.add(response)
        async with stack:
            try:
                async for part in response.content.iter_any():
                    yield part
            except (aiohttp.ClientError, OSError):
                return  # the listener comes back, with the id of what it heard last
            finally:
                self._open.discard(response)


def _unavailable() -> Problem:
    return Problem("service-unavailable", "The directory can't be reached: it alone knows this.", service=PEER)
