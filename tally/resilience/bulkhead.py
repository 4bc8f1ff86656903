"""How many calls to one peer at once, and how many may wait for a place.

A peer that hangs must not take every connection and every megabyte of this process with it: at most
`concurrency` calls are under way, at most `queue` wait, first come first served, none for longer than its
deadline or `wait_max_s`. Who finds no place is told so at once. That is a fact about this process, so it
never counts against the peer.

The places are counted without awaiting (`try_enter`, `leave`); only `enter` waits. A place that is given
back passes to the first in the queue directly, so nobody who comes later can take it in between.
"""

from __future__ import annotations

import asyncio
from collections import deque

import msgspec


class BulkheadSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Per peer and process, for all kinds of call together."""

    concurrency: int = 64
    queue: int = 128
    wait_max_s: float = 1.0

    def __post_init__(self) -> None:
        if self.concurrency < 1:
            raise ValueError("concurrency must be 1 or more")
        if self.queue < 0:
            raise ValueError("queue must be 0 or more")
        if self.wait_max_s < 0:
            raise ValueError("wait_max_s must be 0 or more")


class Bulkhead:
    """Assumes one event loop. Who entered leaves, once."""

    __slots__ = ("_in_use", "_queue", "rejected", "settings")

    def __init__(self, settings: BulkheadSettings) -> None:
        self.settings = settings
        self.rejected = 0
        self._in_use = 0
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        return self._in_use

    @property
    def queued(self) -> int:
        return len(self._queue)

    @property
    def full(self) -> bool:
        """True if somebody who came now would be turned away at once."""
        return self._in_use >= self.settings.concurrency and len(self._queue) >= self.settings.queue

    def try_enter(self) -> bool:
        """A place without waiting, if one is free. (While somebody waits, none is.)"""
        if self._in_use >= self.settings.concurrency:
            return False
        self._in_use += 1
        return True

    async def enter(self, wait_s: float) -> bool:
        """A place, after at most `wait_s` (and `wait_max_s`) in the queue; False if there is none for us."""
        if self.try_enter():
            return True
        wait_s = min(wait_s, self.settings.wait_max_s)
        if wait_s > 0 and not self.full and await self._wait(wait_s):
            return True
        self.rejected += 1
        return False

    def leave(self) -> None:
        """Gives the place to the first in the queue, or back."""
        if self._in_use < 1:
            raise RuntimeError("nobody is inside: a place was given back twice")
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_use -= 1

    async def _wait(self, wait_s: float) -> bool:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout(wait_s):
                await turn
        except TimeoutError:
            # The place and the end of the wait may come in the same turn of the loop: then it is ours.
            return self._granted(turn)
        except BaseException:
            if self._granted(turn):
                self.leave()  # cancelled with the place in hand: it goes to the next
            raise
        return True

    def _granted(self, turn: asyncio.Future[None]) -> bool:
        if turn.done() and not turn.cancelled():
            return True
        if turn in self._queue:
            self._queue.remove(turn)
        return False

    def __repr__(self) -> str:
        return f"<Bulkhead {self._in_use} of {self.settings.concurrency} in use, {self.queued} queued>"
