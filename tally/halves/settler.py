"""The settler: closes an epoch on both sides, compares, kills lone halves, confirms, and forwards cancels.

Assumes that ``tally.protocol.settler`` decides; here is only the doing. It keeps nothing between rounds, so it
may stop anywhere, and any number may run: SETTLE is a compare-and-set, every other message is idempotent.
Leadership (``leader``) only spares work. Every round has a deadline; a side that doesn't answer ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import structlog

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.context import Context
from tally.chassis.spans import SpanBlock
from tally.halves.peer import Failed, Peer
from tally.halves.store import LIST_MAX
from tally.protocol import messages as wire
from tally.protocol import settler as protocol
from tally.protocol.operation import time_ms
from tally.protocol.participant import Answer, may_close
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

log = structlog.get_logger()

Item = TypeVar("Item")
Reply = TypeVar("Reply")

#: A round that takes longer than this is given up; the next one starts over.
ROUND_DEADLINE_S = 10.0
#: Operations in one line of the log.
LOGGED_MAX = 50


class Observer(Protocol):
    """Who counts."""

    def span(self, name: str, *, links: Sequence[Context] = ()) -> SpanBlock: ...
    def settled(self, relationship: str, outcome: str, count: int) -> None: ...
    def lag(self, relationship: str, seconds: float) -> None: ...
    def lone_halves(self, relationship: str, count: int) -> None: ...
    def violated(self, invariant: str) -> None: ...
    def round_ended(self, relationship: str, outcome: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Round:
    """What one round did. ``more`` is true if the window was cut, and another round should follow at once."""

    settled_ms: int
    confirmed: int = 0
    voided: int = 0
    forwarded: int = 0
    more: bool = False


class _GaveUp(Exception):
    """A side did not answer; whatever was done stays done, and the next round starts over."""


class Settler:
    """Settles one relationship."""

    def __init__(
        self,
        relationship: Relationship,
        left: Peer,
        right: Peer,
        clock: Clock,
        observer: Observer,
        *,
        lag_s: float,
        period_s: float,
        leader: Callable[[], Awaitable[bool]],
        tell_voided: Callable[[Side, Sequence[UUID]], Awaitable[None]] | None = None,
        causes: Callable[[Sequence[UUID]], Awaitable[Sequence[Context]]] | None = None,
    ) -> None:
        """``tell_voided`` is told of lone halves once they are dead, before their epoch is settled; ``causes`` tells
        which requests created operations, for traces. If one raises, the round fails."""
        self._relationship = relationship
        self._peers = {Side.LEFT: left, Side.RIGHT: right}
        self._clock = clock
        self._observer = observer
        self._lag_ms = int(lag_s * 1000)
        self._period_s = period_s
        self._leader = leader
        self._tell_voided = tell_voided
        self._causes = causes
        self._trouble: str | None = None

    async def run(self) -> None:
        """Settle every period, for ever; a failed round is logged when it begins to fail and when it is over."""
        while True:
            more = False
            try:
                if await self._leader():
                    with context.use(context.fresh()), self._observer.span("settle"):
                        more = (await self.run_once()).more
                    self._well()
            except _GaveUp as error:
                self._ill(str(error))
            except Exception as error:
                self._ill(f"{type(error).__name__}: {error}", unforeseen=True)
            if not more:
                await asyncio.sleep(self._period_s)

    async def run_once(self) -> Round:
        """One round. Raises if a side did not answer: nothing is settled then that was not compared."""
        name = self._relationship.name
        deadline = Deadline.after(ROUND_DEADLINE_S, self._clock.monotonic_s())
        outcome = "failed"
        try:
            done = await self._settle(deadline)
            outcome = "settled"
        finally:
            self._observer.round_ended(name, outcome)
        forwarded = await self._forward(Side.LEFT, deadline) + await self._forward(Side.RIGHT, deadline)
        self._observer.settled(name, "forwarded", forwarded)
        self._observer.lag(name, (self._clock.now_ms() - done.settled_ms) / 1000)
        return Round(done.settled_ms, done.confirmed, done.voided, forwarded, done.more)

    # -- the epoch

    async def _settle(self, deadline: Deadline) -> Round:
        asked = self._clock.now_ms() - self._lag_ms
        # 0. An epoch that is closed on one side is closed for good, so two clocks have to agree before it is on any.
        clock = _answered(await self._peers[Side.LEFT].mark(deadline), Side.LEFT).now
        if clock is not None and not may_close(asked, clock, self._lag_ms):
            raise _behind(Side.LEFT)
        # 1. The right side first: the marks stay in order, and its settled mark is where both lists begin.
        right = await self._close(Side.RIGHT, wire.Close(asked, None, LIST_MAX), deadline)
        # 2. The left side, the same window.
        left = await self._close(Side.LEFT, wire.Close(right.time, right.settled, LIST_MAX), deadline)
        until = min(right.time, left.time)
        await self._check_order(left, right, deadline)
        if until <= right.settled:
            return Round(right.settled)
        here = {Side.LEFT: _listing(left, until), Side.RIGHT: _listing(right, until)}
        comparison = protocol.compare(here[Side.LEFT], here[Side.RIGHT])
        self._observer.lone_halves(self._relationship.name, len(comparison.lone))
        # 3. Kill the lone halves, and be sure of it, before the mark passes them.
        await self._kill(comparison, here, deadline)
        # 4. Confirm the rest, once.
        matched = sorted(op for op in comparison.matched if isinstance(op, UUID))
        settle = wire.Settle(right.settled, until, right.inc, matched)
        causes = await self._causes(matched) if matched and self._causes is not None else ()
        with self._observer.span("confirm", links=causes):
            settled = _answered(await self._peers[Side.RIGHT].settle(settle, deadline), Side.RIGHT)
        if settled.applied and settled.confirmed:
            self._observer.settled(self._relationship.name, "confirmed", settled.confirmed)
            self._log_confirmed(matched, settled.confirmed)
        return Round(settled.settled, settled.confirmed, len(comparison.lone), more=until < asked)

    def _log_confirmed(self, matched: Sequence[UUID], confirmed: int) -> None:
        """SETTLE says how many were still live, and not which: where that is not all, nothing more is claimed."""
        name = self._relationship.name
        if confirmed == len(matched):
            for ops in _lines(matched):
                log.info("confirmed", relationship=name, count=len(ops), ops=ops)
            return
        log.info("confirmed", relationship=name, count=confirmed, of_matched=len(matched))
        for ops in _lines(matched):
            log.info("matched", relationship=name, count=len(ops), ops=ops)

    async def _check_order(self, left: wire.Closed, right: wire.Closed, deadline: Deadline) -> None:
        """The invariant of the marks. Another settler may have moved both since the right side closed: ask again."""
        if protocol.in_order(left.closed, right.closed, right.settled):
            return
        now = _answered(await self._peers[Side.RIGHT].status([], deadline), Side.RIGHT)
        if not protocol.in_order(left.closed, now.closed, right.settled):
            self._observer.violated("mark-order")
            raise _GaveUp(
                f"the marks are out of order (left closed {left.closed}, right closed {now.closed},"
                f" settled {right.settled}): was a database restored?"
            )

    async def _close(self, side: Side, message: wire.Close, deadline: Deadline) -> wire.Closed:
        closed = _answered(await self._peers[side].close(message, deadline), side)
        if closed.too_early:
            raise _behind(side)
        return closed

    async def _kill(
        self, comparison: protocol.Comparison, here: dict[Side, protocol.Listing], deadline: Deadline
    ) -> None:
        acks: list[tuple[Side, object, object]] = []
        for side in Side:
            proofs = [
                wire.ProofItem(half.op, half.inc)
                for half in comparison.lone
                if half.side is side and isinstance(half.op, UUID) and isinstance(half.inc, UUID)
            ]
            for batch in _parts(proofs, wire.BATCH_MAX):
                told = _answered(await self._peers[side].kill(batch, deadline), side)
                dead = [p.op for p, v in zip(batch, told.items, strict=True) if v.answer is Answer.DEAD]
                acks += [(side, op, told.inc) for op in dead]
                if dead and self._tell_voided is not None:
                    await self._tell_voided(side, dead)
                self._observer.settled(self._relationship.name, "voided", len(dead))
                name, service = self._relationship.name, self._peers[side].service
                for ops in _lines(dead):
                    log.warning("voided lone halves", relationship=name, service=service, count=len(ops), ops=ops)
        if not protocol.all_killed(comparison, here[Side.LEFT], here[Side.RIGHT], acks):
            raise _GaveUp("a lone half was not killed by the incarnation that listed it")

    # -- cancels on their way to the peer

    async def _forward(self, side: Side, deadline: Deadline) -> int:
        """Tell the peer of what was cancelled on ``side``, until nothing is left to tell."""
        total = 0
        while True:
            cancelled = _answered(await self._peers[side].forward(wire.BATCH_MAX, deadline), side)
            if not cancelled.items:
                return total
            proofs = [wire.ProofItem(op, cancelled.inc) for op in cancelled.items]
            told = _answered(await self._peers[side.peer].kill(proofs, deadline), side.peer)
            known = [p.op for p, v in zip(proofs, told.items, strict=True) if v.answer is Answer.DEAD]
            acks = [wire.ProofItem(op, told.inc) for op in known]
            _answered(await self._peers[side].ack(acks, deadline), side)
            total += len(known)
            for ops in _lines(known):
                log.info("forwarded cancels", to=self._peers[side.peer].service, count=len(ops), ops=ops)
            if len(known) < len(proofs):
                raise _GaveUp(f"the {side.peer.value} side refused a cancel of another incarnation")

    # -- trouble is told once

    def _ill(self, trouble: str, *, unforeseen: bool = False) -> None:
        if self._trouble != trouble:
            more = {"exc_info": True} if unforeseen else {}
            log.warning("settling fails", relationship=self._relationship.name, reason=trouble, **more)
        self._trouble = trouble

    def _well(self) -> None:
        if self._trouble is not None:
            log.info("settling again", relationship=self._relationship.name)
        self._trouble = None

    def __repr__(self) -> str:
        return f"<Settler {self._relationship.name} {'in trouble: ' + self._trouble if self._trouble else 'well'}>"


def _answered(reply: Reply | Failed, side: Side) -> Reply:
    if isinstance(reply, Failed):
        raise _GaveUp(f"the {side.value} side did not answer: {reply.reason}")
    return reply


def _behind(side: Side) -> _GaveUp:
    return _GaveUp(f"the clock of the {side.value} side is behind this one's: it won't close the epoch yet")


def _listing(closed: wire.Closed, until: int) -> protocol.Listing:
    return protocol.Listing(closed.inc, frozenset(op for op in closed.live if time_ms(op) <= until))


def _parts(items: Sequence[Item], most: int) -> list[Sequence[Item]]:
    return [items[i : i + most] for i in range(0, len(items), most)]


def _lines(ops: Sequence[UUID]) -> list[list[str]]:
    """All operations, by as many as a log line should hold."""
    return [[str(op) for op in part] for part in _parts(ops, LOGGED_MAX)]
