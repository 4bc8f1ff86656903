"""Sheds requests that there is no room for, before their bodies are read: 503 with Retry-After, and nothing done.

Assumes that it is in front of the public routes only: health and admin endpoints are outside the limit.
"""

from __future__ import annotations

import random
from typing import Final

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send

from tally.chassis.clock import Clock
from tally.chassis.http import LASTING
from tally.chassis.problems import Problem
from tally.chassis.signals import Signals
from tally.resilience.limiter import Limiter, LimiterSettings, Shed

#: In the scope of a request that was shed. It gets no line of its own in the log: under a flood, that would be another.
SHED: Final = "tally.shed"
_LINE_S: Final = 1.0

_log = structlog.get_logger()

#: Coalescing makes many requests at once cheaper, so response times alone would settle far too low: the floor
#: leaves room for whole batches.
SETTINGS = LimiterSettings(limit_initial=512, limit_min=512, limit_max=1024)


def shedding(app: ASGIApp, clock: Clock, signals: Signals, settings: LimiterSettings = SETTINGS) -> ASGIApp:
    """``app`` behind an adaptive limit on requests under way."""
    limiter = Limiter(settings, random.random)
    signals.shed_total.initialise(reason=["full"])
    in_flight, limit = signals.requests_in_flight(), signals.requests_limit()
    in_flight.set_function(lambda: limiter.in_flight)
    limit.set_function(lambda: limiter.limit)
    full = signals.shed_total("full")
    lines = _Lines()

    async def limited(scope: Scope, receive: Receive, send: Send) -> None:
        now_s = clock.monotonic_s()
        admitted = limiter.admit(now_s)
        if isinstance(admitted, Shed):
            full.inc()
            scope[SHED] = True
            lines.shed(now_s, limiter.limit)
            signals.event("shed", reason="full")
            detail = "There is more to do than can be done in time; nothing of this was begun."
            raise Problem("overloaded", detail, retry_after_s=admitted.retry_after_s)
        ignored = True
        try:
            await app(scope, receive, send)
            ignored = LASTING in scope
        finally:
            limiter.release(admitted, clock.monotonic_s(), ignored=ignored)

    return limited


class _Lines:
    """Says in the log that requests are shed: at once, and then once a second how many, for as long as it goes on."""

    def __init__(self) -> None:
        self._told_s = -_LINE_S
        self._untold = 0

    def shed(self, now_s: float, limit: int) -> None:
        self._untold += 1
        if now_s - self._told_s >= _LINE_S:
            _log.warning("requests shed", requests=self._untold, limit=limit)
            self._told_s, self._untold = now_s, 0
