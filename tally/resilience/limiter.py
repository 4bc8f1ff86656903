"""How many requests this server takes at once; found by measuring, not by configuring.

Asked before the body is read, answered without awaiting. The limit follows the response time by Netflix' `VegasLimit`
(concurrency-limits; after TCP Vegas): the queue inside this server is estimated as `limit * (1 - rtt_noload / rtt)`;
while it is short the limit grows, when it is long the limit shrinks, by about log10 of itself. Response times are
averaged over windows (their `WindowedLimit`), since single ones say little. Vegas and not Gradient2, because in
simulated overload (one server, ten times its capacity for minutes) Gradient2's long-term average learns the overload
as normal and lets the queue grow half as long again.

Health and admin endpoints are never to be asked.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec


class LimiterSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`limit_initial` applies until the first window of measurements is complete."""

    limit_initial: int = 32
    limit_min: int = 8
    limit_max: int = 512
    window_s: float = 0.25
    window_calls_min: int = 10
    # About every so many windows times the limit, the no-load time is measured anew: an upgrade may have
    # made it slower.
    probe_multiplier: int = 30
    retry_after_s: float = 1.0

    def __post_init__(self) -> None:
        if not 1 <= self.limit_min <= self.limit_initial <= self.limit_max:
            raise ValueError("limit_min, limit_initial and limit_max must be 1 or more, in this order")
        for name in ("window_s", "retry_after_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("window_calls_min", "probe_multiplier"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")


@dataclass(slots=True)
class Admitted:
    """Leave to serve one request. Give it back with `release`, once."""

    at_s: float
    in_flight: int
    released: bool = False


@dataclass(frozen=True, slots=True)
class Shed:
    """Answer "overloaded", having done nothing: too many are here."""

    retry_after_s: float


class Limiter:
    """One per server. Assumes one thread and one monotonic clock; `random` gives values in [0, 1)."""

    def __init__(self, settings: LimiterSettings, random: Callable[[], float]) -> None:
        self.settings = settings
        self.in_flight = 0
        self.shed = 0
        self._limit = Vegas(settings, random)
        self._sample = _Sample()
        self._sample_ends_s: float | None = None

    @property
    def limit(self) -> int:
        return self._limit.limit

    def admit(self, now_s: float) -> Admitted | Shed:
        """May this request be served?"""
        if self.in_flight >= self.limit:
            self.shed += 1
            return Shed(self.settings.retry_after_s)
        self.in_flight += 1
        return Admitted(now_s, self.in_flight)

    def release(self, admitted: Admitted, now_s: float, *, ignored: bool = False) -> None:
        """The request is over. `ignored`: it measured something else than this server's speed."""
        if admitted.released:
            raise RuntimeError("an admission is released once: this one was released before")
        admitted.released = True
        self.in_flight -= 1
        if not ignored:
            self._measure(now_s - admitted.at_s, admitted.in_flight, now_s)

    def _measure(self, rtt_s: float, in_flight: int, now_s: float) -> None:
        if self._sample_ends_s is None:
            self._sample_ends_s = now_s + self.settings.window_s
        self._sample.add(rtt_s, in_flight)
        if now_s < self._sample_ends_s or self._sample.calls < self.settings.window_calls_min:
            return
        self._limit.update(self._sample.rtt_s, self._sample.in_flight_max)
        self._sample = _Sample()
        self._sample_ends_s = now_s + self.settings.window_s

    def __repr__(self) -> str:
        return f"<Limiter {self.in_flight} of {self.limit} in flight, {self.shed} shed>"


class _Sample:
    """What one window measured."""

    __slots__ = ("calls", "in_flight_max", "sum_s")

    def __init__(self) -> None:
        self.calls = 0
        self.sum_s = 0.0
        self.in_flight_max = 0

    def add(self, rtt_s: float, in_flight: int) -> None:
        self.calls += 1
        self.sum_s += max(rtt_s, 1e-6)  # a coarse clock may say 0; the estimate divides by it
        self.in_flight_max = max(self.in_flight_max, in_flight)

    @property
    def rtt_s(self) -> float:
        return self.sum_s / self.calls


class Vegas:
    """The limit, moved by one averaged response time per window (Netflix `VegasLimit.java`)."""

    def __init__(self, settings: LimiterSettings, random: Callable[[], float]) -> None:
        self._settings = settings
        self._random = random
        self._estimate = float(settings.limit_initial)
        self._rtt_noload_s = math.inf
        self._updates = 0
        self._probe_jitter = 0.5 + random() / 2

    @property
    def limit(self) -> int:
        return int(self._estimate)

    @property
    def rtt_noload_s(self) -> float:
        """The best response time seen since the last probe; infinite before the first."""
        return self._rtt_noload_s

    def update(self, rtt_s: float, in_flight: int) -> None:
        self._updates += 1
        if self._updates >= self._probe_jitter * self._settings.probe_multiplier * self._estimate:
            self._updates = 0
            self._probe_jitter = 0.5 + self._random() / 2
            self._rtt_noload_s = rtt_s
        elif rtt_s < self._rtt_noload_s:
            self._rtt_noload_s = rtt_s
        else:
            moved = self._moved(rtt_s, in_flight)
            self._estimate = float(min(max(moved, self._settings.limit_min), self._settings.limit_max))

    def _moved(self, rtt_s: float, in_flight: int) -> float:
        limit = self._estimate
        step = max(1, int(math.log10(max(1.0, limit))))
        if in_flight * 2 < limit:
            return limit  # nobody needed it: this window says nothing about the limit
        queued = math.ceil(limit * (1 - self._rtt_noload_s / rtt_s))
        if queued <= step:
            return limit + 6 * step  # no queue: go fast
        if queued < 3 * step:
            return limit + step
        if queued > 6 * step:
            return limit - step
        return limit
