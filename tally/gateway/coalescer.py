"""Carries concurrent requests of one kind to one participant in batches.

While a batch is in flight the next one gathers, so under load one call and one transaction carry many
operations; alone, a request waits for nothing. What the event loop has already received goes along: the first of
many requests that come at once would otherwise leave by itself, at the price of a whole call. For the same reason
a few that come back to many wait for more: whoever was just answered is about to ask again. They wait no longer than a
call takes, so that waiting never costs more than what it may save (as in ski rental, Karlin et al., 1988).

A batch that takes longer than ``patience_s`` no longer holds up the next, so one that is stuck delays the others by
that much, not by its deadline.

Assumes that the batch function never raises, and answers one outcome per item in their order or one failure
for all. Who submits waits no longer than it wants to: a ticket whose future is done before it left is given
up, and never leaves.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextvars import copy_context
from typing import Generic, TypeVar

from tally.halves.peer import Failed
from tally.resilience.deadline import Deadline

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")

QUEUE_FULL = Failed(False, "too many requests are waiting for this service")
#: Turns of the event loop without another request, after which a batch leaves: one reads it, the next one handles it.
_QUIET_TURNS = 2
#: The longest that a batch gathers with nothing in flight, however many requests each turn brings.
_GATHERING_MAX_S = 0.003
#: The longest that a few requests wait for more, however long a call takes.
_HELD_MAX_S = 0.01


class Ticket(Generic[Item, Outcome]):
    """One submitted item: await ``future`` for its outcome, or give it up; ``sent`` tells whether it ever left."""

    __slots__ = ("context", "deadline", "future", "item", "sent")

    def __init__(self, item: Item, deadline: Deadline, future: asyncio.Future[Outcome | Failed]) -> None:
        self.item = item
        self.deadline = deadline
        self.future = future
        self.sent = False
        self.context = copy_context()


class Coalescer(Generic[Item, Outcome]):
    """A bounded queue in front of one kind of batch call to one participant."""

    def __init__(
        self,
        send: Callable[[Sequence[Item], Deadline], Awaitable[Sequence[Outcome] | Failed]],
        *,
        batch_max: int = 256,
        queue_max: int = 4096,
        in_flight_max: int = 8,
        patience_s: float = 0.1,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._send = send
        self._batch_max = batch_max
        self._queue_max = queue_max
        self._in_flight_max = in_flight_max
        self._patience_s = patience_s
        self._observe = observe
        self._queue: deque[Ticket[Item, Outcome]] = deque()
        self._in_flight: set[asyncio.Task[None]] = set()
        self._patient = 0  # batches in flight that the next one still waits for
        self._gathering = False  # whether `_gather` is on its way
        self._quiet_turns = 0
        self._gathers_until_s = 0.0
        self._last_size = 0  # of the batch that came back last, and how long it was away
        self._last_call_s = 0.0
        self._held: asyncio.TimerHandle | None = None  # while a few wait for more

    def submit(self, item: Item, deadline: Deadline) -> Ticket[Item, Outcome]:
        """Queue ``item``; with nothing in flight, it leaves with what comes at once (a few after many wait)."""
        ticket: Ticket[Item, Outcome] = Ticket(item, deadline, asyncio.get_running_loop().create_future())
        if len(self._queue) >= self._queue_max:
            ticket.future.set_result(QUEUE_FULL)
            return ticket
        self._queue.append(ticket)
        self._quiet_turns = 0
        self._pump()
        return ticket

    async def close(self) -> None:
        """Wait for what is in flight; nothing new may be submitted meanwhile."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)

    def _pump(self) -> None:
        """Begin to gather the next batch, if nothing holds it up."""
        if self._may_leave() and not self._gathering and not (self._held and self._are_few()):
            loop = asyncio.get_running_loop()
            self._gathering, self._quiet_turns = True, 0
            self._gathers_until_s = loop.time() + _GATHERING_MAX_S
            loop.call_soon(self._gather)

    def _gather(self) -> None:
        """Once per turn of the loop, until some turns have brought nothing; then the batch leaves."""
        loop = asyncio.get_running_loop()
        if self._may_leave() and self._are_few():
            # Only now: what was just answered is out, so the time to come back counts from here.
            self._held = self._held or loop.call_later(min(self._last_call_s, _HELD_MAX_S), self._hold_no_longer)
            self._gathering = False
            return
        if self._may_leave() and self._quiet_turns < _QUIET_TURNS and loop.time() < self._gathers_until_s:
            self._quiet_turns += 1
            loop.call_soon(self._gather)
            return
        self._gathering = False
        if self._may_leave() and (batch := self._take()):
            self._patient += 1
            if self._held is not None:
                self._held.cancel()
                self._held = None
            # The batch belongs to the trace of its first item.
            self._in_flight.add(loop.create_task(self._carry(batch), context=batch[0].context))

    def _are_few(self) -> bool:
        """Whether those who wait are fewer than half of the batch that came back last."""
        return len(self._queue) < self._last_size // 2

    def _hold_no_longer(self) -> None:
        self._held, self._last_size = None, 0
        self._pump()

    def _may_leave(self) -> bool:
        return bool(self._queue) and self._patient == 0 and len(self._in_flight) < self._in_flight_max

    def _take(self) -> list[Ticket[Item, Outcome]]:
        batch: list[Ticket[Item, Outcome]] = []
        while self._queue and len(batch) < self._batch_max:
            ticket = self._queue.popleft()
            if not ticket.future.done():
                ticket.sent = True
                batch.append(ticket)
        return batch

    async def _carry(self, batch: list[Ticket[Item, Outcome]]) -> None:
        """Send one batch, with the latest deadline in it: nobody's answer is cut off by a hastier neighbour."""
        task, holding = asyncio.current_task(), True

        def let_next_go() -> None:
            nonlocal holding
            if holding:
                holding = False
                self._patient -= 1
                self._pump()

        loop = asyncio.get_running_loop()
        begun_s, patience = loop.time(), loop.call_later(self._patience_s, let_next_go)
        self._observe(len(batch))
        outcomes: Sequence[Outcome] | Failed = Failed(True, "the call was abandoned")
        try:
            outcomes = await self._send([ticket.item for ticket in batch], max(ticket.deadline for ticket in batch))
        finally:
            patience.cancel()
            self._last_size, self._last_call_s = len(batch), loop.time() - begun_s
            self._in_flight.discard(task)
            self._deliver(batch, outcomes)
            let_next_go()
            self._pump()

    def _deliver(self, batch: list[Ticket[Item, Outcome]], outcomes: Sequence[Outcome] | Failed) -> None:
        if not isinstance(outcomes, Failed) and len(outcomes) != len(batch):
            outcomes = Failed(True, f"{len(outcomes)} answers to {len(batch)} questions")
        for i, ticket in enumerate(batch):
            if not ticket.future.done():
                ticket.future.set_result(outcomes if isinstance(outcomes, Failed) else outcomes[i])

    def __repr__(self) -> str:
        return f"<Coalescer waiting={len(self._queue)} in_flight={len(self._in_flight)}>"
