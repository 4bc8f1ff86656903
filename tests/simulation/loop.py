"""asyncio's event loop on virtual time: it never waits, and chooses who goes next by the seed.

Assumes CPython's asyncio: ``_ready``, ``_run_once`` and a handle's ``_context`` are its internals, stable from 3.11
on. Time stands still while anything is ready, then jumps to the next timer; so ``sleep``, ``timeout`` and
``call_later`` in the product need no change.

What may be reordered: asyncio promises one process that its callbacks run in the order they became ready, and
products rely on it; it promises nothing between processes. Every callback belongs to the process in whose
context it was made (:data:`OWNER`), and the next one to run is drawn among processes, never within one.
A dead process's callbacks are dropped: that's what a crash is.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any, Protocol

#: Callbacks that may run before time has to move: more is a loop that waits for something without waiting.
_AT_ONCE_MAX = 50_000


class Owner(Protocol):
    """A process, as the loop sees it."""

    alive: bool

    def adopt(self, task: asyncio.Task[Any], context: Context) -> None: ...


OWNER: ContextVar[Owner] = ContextVar("OWNER")


class Stuck(Exception):
    """Nothing is ready and no timer is set, or time can't move on."""


class _Ready:
    """The ready callbacks, a queue per owner. Has as much of a deque as asyncio's base loop uses."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._queues: dict[Owner | None, deque[Any]] = {}
        self._waiting: list[Owner | None] = []  # owners with a queue that isn't empty

    def append(self, handle: Any) -> None:
        owner = handle._context.get(OWNER, None)
        if owner is not None and not owner.alive:
            return
        queue = self._queues.get(owner)
        if queue is None:
            queue = self._queues[owner] = deque()
            self._waiting.append(owner)
        queue.append(handle)

    def popleft(self) -> Any:
        """The next callback of an owner chosen by chance; None if that one has died meanwhile."""
        i = int(self._random.random() * len(self._waiting)) if len(self._waiting) > 1 else 0
        owner = self._waiting[i]
        queue = self._queues[owner]
        handle = queue.popleft()
        if not queue or (owner is not None and not owner.alive):
            del self._queues[owner]
            self._waiting[i] = self._waiting[-1]
            self._waiting.pop()
        return None if owner is not None and not owner.alive else handle

    def clear(self) -> None:
        self._queues.clear()
        self._waiting.clear()

    def __len__(self) -> int:
        return len(self._waiting)


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop whose time is a number."""

    _ready: Any

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._now_s = 0.0
        self._at_once = 0
        self._ready = _Ready(Random(seed))
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timers_made = 0
        self.handles_run = 0

    def time(self) -> float:
        return self._now_s

    def create_task(
        self, coro: Coroutine[Any, Any, Any], *, name: str | None = None, context: Context | None = None
    ) -> Any:
        context = context if context is not None else copy_context()
        owner = context.get(OWNER, None)
        if owner is not None and not owner.alive:
            # Clean-up code of a process that was killed: nobody runs it.
            coro.close()
            nobody = self.create_future()
            nobody.cancel()
            return nobody
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        if owner is not None:
            owner.adopt(task, context)
        return task

    def call_at(
        self, when: float, callback: Callable[..., Any], *arguments: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = asyncio.TimerHandle(when, callback, arguments, self, context)
        self._timers_made += 1
        heapq.heappush(self._timers, (when, self._timers_made, timer))
        return timer

    def _run_once(self) -> None:
        if not self._ready:
            self._advance()
        self._wake()
        if not self._ready:
            return
        self._at_once += 1
        if self._at_once > _AT_ONCE_MAX:
            raise Stuck(f"{_AT_ONCE_MAX} callbacks ran at {self._now_s:.3f} s, and there are more")
        handle = self._ready.popleft()
        if handle is not None and not handle._cancelled:
            self.handles_run += 1
            handle._run()

    def _advance(self) -> None:
        """Jump to the next timer that is still wanted."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Stuck(f"at {self._now_s:.3f} s nothing is ready, and nothing ever will be")
        if timers[0][0] > self._now_s:
            self._now_s = timers[0][0]
            self._at_once = 0

    def _wake(self) -> None:
        timers = self._timers
        while timers and timers[0][0] <= self._now_s:
            timer = heapq.heappop(timers)[2]
            if not timer.cancelled():
                self._ready.append(timer)

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Cancelled timers are dropped when their time comes."""
