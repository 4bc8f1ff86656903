"""The fault switch: what goes wrong on purpose, for experiments with a running service.

Off, and 404, unless the setting ``faults`` is on. Faults are set as a whole by ``PUT /admin/faults`` (a service
token is needed), apply to paths by prefix on the public port, draw from a seed, and end by themselves.

=============  ================================================================================================
kind           what happens to a share ``rate`` of the requests
=============  ================================================================================================
error          answered with a problem, ``internal``, and nothing is done
latency        begun later, by ``latency_ms`` plus or minus up to ``jitter_ms``
reset          the connection is cut before the request is looked at
cut            the request is carried out, and the connection is cut in the middle of the answer
hang           the request is carried out, and the answer never comes: the case in doubt
duplicate      the request is carried out twice, and the second answer is given
not-ready      not a request: readiness fails
pool           not a request: every database connection is held
=============  ================================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

import structlog
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tally.chassis.auth import Guard, GuardedSettings
from tally.chassis.body import json_body
from tally.chassis.clock import Clock
from tally.chassis.database import Database
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.http import Route, json_response
from tally.chassis.problems import Problem
from tally.chassis.signals import Signals

log = structlog.get_logger()

_HANG_MAX_S = 300.0


class Kind(StrEnum):
    ERROR = "error"
    LATENCY = "latency"
    RESET = "reset"
    CUT = "cut"
    HANG = "hang"
    DUPLICATE = "duplicate"
    NOT_READY = "not-ready"
    POOL = "pool"


class Fault(Struct, frozen=True):
    """One fault; it ends ``expires_s`` seconds after it was set."""

    kind: Kind
    expires_s: Annotated[float, Meta(gt=0, le=3600, description="Seconds until it ends by itself.")]
    rate: Annotated[float, Meta(ge=0, le=1, description="The share of requests that it hits.")] = 1.0
    path: Annotated[str, Meta(max_length=200, description="Only paths that begin with this.")] = "/"
    latency_ms: Annotated[float, Meta(ge=0, le=60_000, description="How much later, for latency.")] = 0.0
    jitter_ms: Annotated[float, Meta(ge=0, le=60_000, description="Give or take this, for latency.")] = 0.0
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1, description="The same seed hits the same requests.")] = 0


class FaultSet(Struct, frozen=True):
    """All faults of a service; an empty list ends them."""

    faults: Annotated[list[Fault], Meta(max_length=32)]


class Active(Struct, frozen=True):
    """A fault that is on, for ``left_s`` more seconds; it was drawn ``hits`` times."""

    fault: Fault
    left_s: float
    hits: int


@dataclass(slots=True)
class _On:
    fault: Fault
    ends_s: float
    draw: random.Random
    hits: int = 0


@dataclass
class Faults:
    """The faults of one process. Without any, a request costs one look at an empty list."""

    clock: Clock
    signals: Signals
    database: Database | None = None
    _on: list[_On] = field(default_factory=list)
    _pool: asyncio.Task[None] | None = None

    @classmethod
    def of(
        cls, settings: GuardedSettings, clock: Clock, signals: Signals, database: Database | None = None
    ) -> Self | None:
        """Those of a service, where its settings allow any."""
        return cls(clock, signals, database) if settings.faults == "on" else None

    def __post_init__(self) -> None:
        # Read when scraped: a fault ends by itself, and nobody needs to ask for that to show.
        for kind in Kind:
            self.signals.fault_active(kind.value).set_function(functools.partial(self._is_on, kind))

    # -- switching

    def set(self, wanted: FaultSet) -> None:
        """Replace all faults."""
        now_s = self.clock.monotonic_s()
        self._on = [_On(one, now_s + one.expires_s, random.Random(one.seed)) for one in wanted.faults]
        told = [f"{one.kind.value} {one.rate:g} for {one.expires_s:g} s" for one in wanted.faults]
        log.warning("faults set", faults=told)
        self._hold_pool()

    def active(self) -> list[Active]:
        """What is on now."""
        now_s = self.clock.monotonic_s()
        self._on = [one for one in self._on if one.ends_s > now_s]
        return [Active(one.fault, one.ends_s - now_s, one.hits) for one in self._on]

    def _is_on(self, kind: Kind) -> bool:
        now_s = self.clock.monotonic_s()
        return any(one.fault.kind is kind and one.ends_s > now_s for one in self._on)

    async def check_ready(self) -> None:
        """A readiness check."""
        if self._find(Kind.NOT_READY, "/") is not None:
            raise RuntimeError("not ready by a fault that was switched on")

    def close(self) -> None:
        self._on = []
        if self._pool is not None:
            self._pool.cancel()

    # -- drawing

    def _find(self, kind: Kind, path: str) -> _On | None:
        """The fault of this kind that hits a request for ``path``, if one does."""
        now_s = self.clock.monotonic_s()
        for one in self._on:
            fault = one.fault
            applies = fault.kind is kind and now_s < one.ends_s and path.startswith(fault.path)
            if applies and one.draw.random() < fault.rate:
                one.hits += 1
                return one
        return None

    def around(self, app: ASGIApp) -> ASGIApp:
        """``app`` with the faults in front of it."""

        async def faulty(scope: Scope, receive: Receive, send: Send) -> None:
            if self._on:
                await self._faulty(app, scope, receive, send)
            else:
                await app(scope, receive, send)

        return faulty

    async def _faulty(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if (late := self._find(Kind.LATENCY, path)) is not None:
            jitter_ms = late.draw.uniform(-late.fault.jitter_ms, late.fault.jitter_ms)
            await asyncio.sleep(max(0.0, late.fault.latency_ms + jitter_ms) / 1000)
        hung_up = functools.partial(_hung_up, receive)
        if self._find(Kind.RESET, path) is not None:
            _abort(send)
            await hung_up()
            return
        if self._find(Kind.ERROR, path) is not None:
            raise Problem("internal", "A fault that was switched on.")
        if self._find(Kind.DUPLICATE, path) is not None:
            body = await Request(scope, receive).body()
            await app(dict(scope), _replay(body), _nowhere)
            receive = _replay(body)
        if self._find(Kind.CUT, path) is not None:
            await app(scope, receive, _cutting(send))
            await hung_up()
        elif self._find(Kind.HANG, path) is not None:
            await app(scope, receive, _nowhere)
            await hung_up()
        else:
            await app(scope, receive, send)

    # -- the pool

    def _hold_pool(self) -> None:
        if self._pool is not None:
            self._pool.cancel()
            self._pool = None
        wanted = [one for one in self._on if one.fault.kind is Kind.POOL]
        if wanted and self.database is not None:
            self._pool = asyncio.get_running_loop().create_task(self._exhaust(self.database, wanted[0].ends_s))

    async def _exhaust(self, database: Database, ends_s: float) -> None:
        """Hold every connection that can be had, until the fault ends."""
        async with contextlib.AsyncExitStack() as held:
            while (left_s := ends_s - self.clock.monotonic_s()) > 0:
                try:
                    await held.enter_async_context(database.acquire())
                except DatabaseFault:
                    await asyncio.sleep(min(left_s, 0.1))

    def routes(self, guard: Guard) -> list[Route]:
        """GET and PUT /admin/faults."""

        async def show(request: Request) -> Response:
            return json_response({"items": self.active()})

        async def replace(request: Request) -> Response:
            self.set(await json_body(request, FaultSet))
            return json_response({"items": self.active()})

        problems = ("unauthenticated", "forbidden")
        return [
            Route("GET", "/admin/faults", guard(show), "The faults that are on.", problems=problems, tags=("admin",)),
            Route(
                "PUT",
                "/admin/faults",
                guard(replace),
                "Replace all faults; an empty list ends them.",
                request=FaultSet,
                problems=problems,
                tags=("admin",),
            ),
        ]


def _replay(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _hung_up(receive: Receive) -> None:
    """Until the connection is gone: a request that gets no answer is over then, and takes up no place any more."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HANG_MAX_S):
            while (await receive())["type"] != "http.disconnect":
                pass


async def _nowhere(message: Message) -> None:
    return None


def _cutting(send: Send) -> Send:
    """Sends half of the first piece of the body, and cuts the connection."""

    async def cut(message: Message) -> None:
        if message["type"] == "http.response.body":
            half = message.get("body", b"")
            await send({"type": "http.response.body", "body": half[: len(half) // 2], "more_body": True})
            await asyncio.sleep(0.01)  # long enough for the half to leave
            _abort(send)
        else:
            await send(message)

    return cut


def _abort(send: Any) -> None:
    """Cut the connection below ``send``: whatever wraps it, uvicorn's own is a method of the exchange."""
    while (wrapped := getattr(send, "_send", None)) is not None:
        send = wrapped
    exchange: Any = getattr(send, "__self__", None)
    abort: Callable[[], None] | None = getattr(getattr(exchange, "transport", None), "abort", None)
    if abort is None:
        raise Problem("internal", "A fault that was switched on; the connection can't be cut here.")
    abort()
