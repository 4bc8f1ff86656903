"""How fresh a projection is, and waiting until it is fresh enough.

    freshness = Freshness("directory-view", stream, clock)               an agent: run, run_once
    freshness.as_of, freshness.lag_s                                     for answers
    await until(contains, within_s)                                      read your own writes

What the stream holds up to `as_of` is in the projection. With nothing left to apply that is the moment in which the
broker was asked; behind, it is the time of the newest event applied. What an owner has not published yet, nobody here
can know of: while the broker is away, `as_of` stays, and the lag grows.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Final

from nats.errors import Error as NatsError

from tally.chassis.clock import Clock, utc
from tally.messaging.inbox import Delivered
from tally.messaging.stream import STREAM, Stream, StreamUnavailable

_PERIOD_S: Final = 0.5
_LOOK_S: Final = (0.02, 0.2)


class Freshness:
    """The freshness of what the durable consumer ``consumer`` feeds."""

    def __init__(self, consumer: str, stream: Stream, clock: Clock) -> None:
        self._consumer = consumer
        self._stream = stream
        self._clock = clock
        self._as_of_ms = 0

    async def run(self) -> None:
        while True:
            await self.run_once()
            await asyncio.sleep(_PERIOD_S * random.uniform(0.9, 1.1))

    async def run_once(self) -> None:
        """Asks the broker whether anything is left. Not being told is no trouble: then `as_of` gets older."""
        asked_ms = self._clock.now_ms()
        self._as_of_ms = min(self._as_of_ms, asked_ms)  # a clock that was set back: nobody is fresher than now
        try:
            jetstream = await self._stream.jetstream()
            told = await jetstream.consumer_info(STREAM, self._consumer)
        except (StreamUnavailable, NatsError, OSError):
            return
        if not told.num_pending and not told.num_ack_pending:
            self._as_of_ms = max(self._as_of_ms, asked_ms)

    def applied(self, delivered: Sequence[Delivered]) -> None:
        """These events are in it now."""
        newest_ms = int(max(one.event.time.timestamp() for one in delivered) * 1000)
        self._as_of_ms = max(self._as_of_ms, min(newest_ms, self._clock.now_ms()))

    @property
    def as_of(self) -> datetime | None:
        """None as long as this process has seen neither an event nor the end of the stream."""
        return utc(self._as_of_ms) if self._as_of_ms else None

    @property
    def lag_s(self) -> float | None:
        return max(0, self._clock.now_ms() - self._as_of_ms) / 1000 if self._as_of_ms else None

    def __repr__(self) -> str:
        return f"<Freshness {self._consumer} as of {self.as_of}>"


async def until(holds: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Whether it holds within ``within_s``; it is asked often at first, then less."""
    pause_s, deadline_s = _LOOK_S[0], asyncio.get_running_loop().time() + within_s
    while not await holds():
        left_s = deadline_s - asyncio.get_running_loop().time()
        if left_s <= 0:
            return False
        await asyncio.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, _LOOK_S[1])
    return True
