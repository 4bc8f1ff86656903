"""What the platform asks of a process, on the admin port: is it alive, has it started, may it get traffic, how is it.

    /livez      the event loop turns. Nothing else: a restart would not mend a database.
    /startupz   the service has started: its database answers, its schema is there
    /readyz     it may get traffic: started, not stopping, and its own checks pass. Never a peer's state: one dead
                service would take all of them out of rotation.
    /metrics    Prometheus, or OpenMetrics with exemplars where the scraper accepts it

200 or 503, and JSON that says why. `?verbose` lists the checks that pass, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.http import Route, json_response
from tally.chassis.logs import without_secrets
from tally.chassis.problems import CODES
from tally.chassis.signals import Signals

# Raises, with a sentence, if what it checks is not in order.
Check = Callable[[], Awaitable[None]]

_CHECK_S: Final = 1.0
_UNHEALTHY: Final = CODES["service-unavailable"].status


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of a health answer: `failed` and `passed` are names of checks, with the reason and "ok"."""

    status: str
    failed: dict[str, str] = {}
    passed: dict[str, str] = {}


class Health:
    """The state of one process's life, and the routes that tell it."""

    def __init__(self, checks: Mapping[str, Check], signals: Signals) -> None:
        self._checks = dict(checks)
        self._signals = signals
        self.started = False
        self.draining = False

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/livez", self.livez, "Whether the event loop turns."),
            Route("GET", "/startupz", self.startupz, "Whether the service has started."),
            Route("GET", "/readyz", self.readyz, "Whether the service may get traffic."),
            Route("GET", "/metrics", self.metrics, "The metrics."),
        ]

    async def livez(self, request: Request) -> Response:
        return json_response(Report("ok"))

    async def startupz(self, request: Request) -> Response:
        return json_response(Report("ok")) if self.started else await self._unready("starting", request)

    async def readyz(self, request: Request) -> Response:
        if self.draining:
            return await self._unready("stopping", request)
        if not self.started:
            return await self._unready("starting", request)
        report = await self._report("ok", request)
        return json_response(report, _UNHEALTHY if report.failed else 200)

    async def metrics(self, request: Request) -> Response:
        body, content_type = self._signals.exposition(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": content_type})

    async def _unready(self, status: str, request: Request) -> Response:
        return json_response(await self._report(status, request), _UNHEALTHY)

    async def _report(self, status: str, request: Request) -> Report:
        failed = dict(zip(self._checks, await asyncio.gather(*map(_failure, self._checks.values())), strict=True))
        wrong = {name: reason for name, reason in failed.items() if reason is not None}
        right = {name: "ok" for name in failed if name not in wrong}
        if wrong and status == "ok":
            status = "not ready"
        return Report(status, wrong, right if "verbose" in request.query_params else {})

    def __repr__(self) -> str:
        state = "stopping" if self.draining else "started" if self.started else "starting"
        return f"<Health {state}, checks {', '.join(self._checks) or 'none'}>"


async def _failure(check: Check) -> str | None:
    """Why a check fails; None if it passes. One that hangs fails."""
    try:
        async with asyncio.timeout(_CHECK_S):
            await check()
    except TimeoutError as error:
        return str(error) or f"no answer within {_CHECK_S:g} s"
    except Exception as error:
        return without_secrets((str(error) or type(error).__name__).encode()).decode()
    return None
