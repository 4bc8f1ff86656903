"""A second copy of a slow read, after the time that 95 of 100 take; whichever answers first wins.

From J. Dean and L. A. Barroso, "The Tail at Scale", CACM 2013: deferring the second request until the first
has been outstanding for longer than the 95th percentile bounds the added load near 5 % and still cuts the
tail. A percentile lags behind a peer that has just become slow, when every call looks like the tail, so the
share is also bounded by count: each call earns `share_max` of a second copy, and no more than `burst_max` are kept.
In any stretch of time at most that share of the calls is hedged, and `burst_max` calls more.

For reads only: both copies may be carried out. It pays only where the two can differ in their luck (another
replica, another connection); against one overloaded server it is load, and the budget is all that bounds
it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class HedgeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`enabled` is off by default: it must pay in the bench first."""

    enabled: bool = False
    quantile: float = 0.95
    share_max: float = 0.05
    burst_max: int = 3
    sample_calls: int = 512
    sample_calls_min: int = 50
    delay_min_s: float = 0.001

    def __post_init__(self) -> None:
        for name in ("quantile", "share_max"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"{name} must be above 0 and below 1")
        if not 1 <= self.sample_calls_min <= self.sample_calls:
            raise ValueError("sample_calls_min must be from 1 to sample_calls")
        if self.burst_max < 1:
            raise ValueError("burst_max must be 1 or more")
        if self.delay_min_s < 0:
            raise ValueError("delay_min_s must be 0 or more")


class Durations:
    """The exact quantiles of the last `size` durations: a sorted list beside the order of arrival."""

    __slots__ = ("_arrived", "_size", "_sorted")

    def __init__(self, size: int) -> None:
        self._size = size
        self._arrived: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._sorted)

    def add(self, duration_s: float) -> None:
        if len(self._arrived) == self._size:
            del self._sorted[bisect_left(self._sorted, self._arrived.popleft())]
        self._arrived.append(duration_s)
        insort(self._sorted, duration_s)

    def quantile(self, share: float) -> float:
        """The smallest duration that at least `share` of them do not exceed. Needs one at least."""
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)]


class Hedge:
    """When to send a second copy; one per peer and kind of read. Assumes one thread."""

    __slots__ = ("_durations", "_earned", "settings")

    def __init__(self, settings: HedgeSettings) -> None:
        self.settings = settings
        self._durations = Durations(settings.sample_calls)
        self._earned = 0.0  # second copies

    def called(self) -> float | None:
        """A call begins: seconds until its second copy is due, or None (off, or too little known)."""
        self._earned = min(self._earned + self.settings.share_max, self.settings.burst_max)
        if not self.settings.enabled or len(self._durations) < self.settings.sample_calls_min:
            return None
        return max(self.settings.delay_min_s, self._durations.quantile(self.settings.quantile))

    def try_hedge(self) -> bool:
        """The second copy is due: True if one has been earned, and then it is spent."""
        if self._earned < 1.0:
            return False
        self._earned -= 1.0
        return True

    def answered(self, duration_s: float) -> None:
        """A first copy took this long, or at least this long if its second copy won."""
        self._durations.add(duration_s)


async def hedged(
    attempt: Callable[[], Awaitable[T]],
    hedge: Hedge,
    *,
    clock: Callable[[], float],
    accept: Callable[[T], bool] = lambda _: True,
) -> T:
    """The first acceptable answer of one or two copies of `attempt`; the loser is cancelled and awaited.

    An answer that `accept` refuses, or an exception, wins only if the other copy gives nothing better.
    """
    begun_s = clock()
    delay_s = hedge.called()
    if delay_s is None:
        answer = await attempt()
        if accept(answer):
            hedge.answered(clock() - begun_s)
        return answer
    copies = [asyncio.ensure_future(attempt())]
    try:
        await asyncio.wait(copies, timeout=delay_s)
        if not copies[0].done() and hedge.try_hedge():
            copies.append(asyncio.ensure_future(attempt()))
        winner = await _first_good(copies, accept)
        if _is_good(winner, accept):  # a fast failure is not a fast answer: it would pull the percentile down
            hedge.answered(clock() - begun_s)
        return winner.result()
    finally:
        await _reap(copies)


async def _first_good(copies: Sequence[asyncio.Future[T]], accept: Callable[[T], bool]) -> asyncio.Future[T]:
    waiting = set(copies)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for copy in done:
            if _is_good(copy, accept):
                return copy
    return copies[0]  # all are bad: the first one's story is the plainer one


def _is_good(copy: asyncio.Future[T], accept: Callable[[T], bool]) -> bool:
    return not copy.cancelled() and copy.exception() is None and accept(copy.result())


async def _reap(copies: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels what still runs, and returns when all of it has ended; their results are nobody's any more.

    A cancellation that comes meanwhile waits until then: a copy left running would act on behalf of nobody.
    """
    running = {copy for copy in copies if not copy.done()}
    for copy in running:
        copy.cancel()
    cancelled: asyncio.CancelledError | None = None
    while running:
        try:
            _, running = await asyncio.wait(running)
        except asyncio.CancelledError as stop:
            cancelled = stop
            running = {copy for copy in running if not copy.done()}
    for copy in copies:
        if not copy.cancelled():
            copy.exception()  # marks it as seen, else asyncio complains that nobody retrieved it
    if cancelled is not None:
        raise cancelled
