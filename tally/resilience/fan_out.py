"""Several participants at once, under one deadline; what became of each is a value.

One participant's failure never hides another's answer: nothing is raised for one of them, nothing is
cancelled for the failure of one. What has not answered at the deadline is cancelled and is `Overdue`: it
may or may not have been done. Whatever happens, the caller's own cancellation included, no child outlives
the call: all are awaited.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeAlias, TypeVar

from tally.resilience.deadline import Deadline

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """It returned; `value` may well be a refusal."""

    value: T
    duration_s: float


@dataclass(frozen=True, slots=True)
class Raised:
    """It raised: a fault, not an outcome."""

    error: Exception
    duration_s: float


@dataclass(frozen=True, slots=True)
class Overdue:
    """No answer at the deadline (or it was cancelled from within): its effect is unknown."""

    duration_s: float


Outcome: TypeAlias = Answered[T] | Raised | Overdue


async def fan_out(
    calls: Mapping[K, Callable[[], Awaitable[T]]],
    *,
    deadline: Deadline,
    clock: Callable[[], float],
    grace_s: float = 0.02,
) -> dict[K, Outcome[T]]:
    """Runs all calls at once; one outcome per key, in the order of `calls`. Raises only if itself cancelled.

    The calls are expected to keep the deadline themselves, and to know better than this what it interrupted
    (a time-out counts against the peer, a cancellation does not): what runs on is cancelled `grace_s` later.
    """
    begun_s = clock()
    children = {peer: asyncio.ensure_future(_outcome(call, clock)) for peer, call in calls.items()}
    wait_s = deadline.left_s(begun_s) + grace_s
    try:
        if children:
            await asyncio.wait(children.values(), timeout=None if math.isinf(wait_s) else wait_s)
    finally:
        await reap(children.values())
    return {peer: _read(child, clock() - begun_s) for peer, child in children.items()}


async def _outcome(call: Callable[[], Awaitable[T]], clock: Callable[[], float]) -> Outcome[T]:
    begun_s = clock()
    try:
        value = await call()
    except Exception as error:
        return Raised(error, clock() - begun_s)
    return Answered(value, clock() - begun_s)


def _read(child: asyncio.Future[Outcome[T]], duration_s: float) -> Outcome[T]:
    return Overdue(duration_s) if child.cancelled() else child.result()


async def reap(children: Iterable[asyncio.Future[Any]]) -> None:
    """Cancels what still runs, and returns when all of it has ended; their results are nobody's any more.

    A cancellation that comes meanwhile waits until then: a child left running would act on behalf of nobody.
    """
    running = {child for child in children if not child.done()}
    for child in running:
        child.cancel()
    cancelled: asyncio.CancelledError | None = None
    while running:
        try:
            _, running = await asyncio.wait(running)
        except asyncio.CancelledError as stop:
            cancelled = stop
            running = {child for child in running if not child.done()}
    for child in children:
        if not child.cancelled():
            child.exception()  # marks it as seen, else asyncio complains that nobody retrieved it
    if cancelled is not None:
        raise cancelled
