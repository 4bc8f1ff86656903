"""Counts over the last N calls, or over the last N seconds.

Two shapes of the same thing, both as resilience4j documents them (`FixedSizeSlidingWindowMetrics`,
`SlidingTimeWindowMetrics`): what leaves the window is subtracted from running totals, so reading costs the
same however long the window is. The time window counts in whole seconds of the caller's monotonic clock:
the current second and the N-1 before it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple, Protocol


class Totals(NamedTuple):
    """What happened in a window. A call can be failed and slow at once."""

    calls: int = 0
    failed: int = 0
    slow: int = 0

    @property
    def failure_rate(self) -> float:
        """Share of failed calls, 0.0 to 1.0; 0.0 where there were no calls."""
        return self.failed / self.calls if self.calls else 0.0

    @property
    def slow_call_rate(self) -> float:
        """Share of slow calls, 0.0 to 1.0; 0.0 where there were no calls."""
        return self.slow / self.calls if self.calls else 0.0


class CallWindow(Protocol):
    """What a breaker needs of a window."""

    def record(self, now_s: float, *, failed: bool, slow: bool) -> Totals: ...

    def totals(self, now_s: float) -> Totals: ...


class SlidingSums:
    """Sums of a few counters over the current second and the `window_s - 1` seconds before it."""

    __slots__ = ("_buckets", "_head", "_second", "_sums", "window_s")

    def __init__(self, window_s: int, counters: int) -> None:
        if window_s < 1 or counters < 1:
            raise ValueError(f"a window needs at least 1 second and 1 counter, not {window_s} and {counters}")
        self.window_s = window_s
        self._buckets = [[0] * counters for _ in range(window_s)]
        self._sums = [0] * counters
        self._head = 0
        self._second = -(2**63)  # before any clock's first second: the first use moves the whole window

    def add(self, now_s: float, *amounts: int) -> tuple[int, ...]:
        """Adds one amount per counter to the current second; returns the sums."""
        self._advance(now_s)
        head, sums = self._buckets[self._head], self._sums
        for counter, amount in enumerate(amounts):
            head[counter] += amount
            sums[counter] += amount
        return tuple(sums)

    def sums(self, now_s: float) -> tuple[int, ...]:
        self._advance(now_s)
        return tuple(self._sums)

    def _advance(self, now_s: float) -> None:
        second = math.floor(now_s)
        if second <= self._second:
            return  # same second; a clock that slips back a little changes nothing
        for _ in range(min(second - self._second, self.window_s)):
            self._head = (self._head + 1) % self.window_s
            oldest = self._buckets[self._head]
            for counter, amount in enumerate(oldest):
                self._sums[counter] -= amount
                oldest[counter] = 0
        self._second = second


class TimeWindow:
    """The calls of the last `window_s` seconds."""

    __slots__ = ("_sums",)

    def __init__(self, window_s: int) -> None:
        self._sums = SlidingSums(window_s, counters=3)

    def record(self, now_s: float, *, failed: bool, slow: bool) -> Totals:
        return Totals(*self._sums.add(now_s, 1, failed, slow))

    def totals(self, now_s: float) -> Totals:
        return Totals(*self._sums.sums(now_s))


class CountWindow:
    """The last `size` calls, however long ago they were."""

    __slots__ = ("_calls", "_failed", "_slow", "size")

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f"a window needs room for at least 1 call, not {size}")
        self.size = size
        self._calls: deque[tuple[bool, bool]] = deque()
        self._failed = 0
        self._slow = 0

    def record(self, now_s: float, *, failed: bool, slow: bool) -> Totals:
        if len(self._calls) == self.size:
            old_failed, old_slow = self._calls.popleft()
            self._failed -= old_failed
            self._slow -= old_slow
        self._calls.append((failed, slow))
        self._failed += failed
        self._slow += slow
        return self.totals(now_s)

    def totals(self, now_s: float) -> Totals:
        return Totals(len(self._calls), self._failed, self._slow)
