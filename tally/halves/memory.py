"""The reference store: a participant's state in memory, decided by ``tally.protocol.participant`` item by item.

It is what the PostgreSQL store is compared with, reply by reply, and what the simulation runs on. A method
does not await, so it is as atomic as a transaction; the state survives a simulated crash of its process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any
from uuid import UUID

import msgspec

from tally.halves.store import (
    ENDED_KEEP_MS,
    FIRST_INC,
    LIST_MAX,
    VOID_KEEP_MS,
    Reconciled,
    Restoring,
    rounds,
    with_shadows,
)
from tally.protocol import messages as wire
from tally.protocol import operation, participant
from tally.protocol.participant import Answer, Checks, Decision, Mark, Message, Reason, Row, Status
from tally.protocol.relationship import Relationship, Side

#: Why a half is void that lived.
_ENDED = (Reason.CANCELLED, Reason.DELETED)


def _in_order(ops: Iterable[object]) -> list[UUID]:
    return sorted(op for op in ops if isinstance(op, UUID))


@dataclass(slots=True)
class Half:
    """One row: its status, its pair (None for a fence), and why it is dead."""

    status: Status
    left: UUID | None
    right: UUID | None
    why: Reason | None = None
    other: UUID | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """What the right side tells the world, in its order: confirmed or cancelled, and of which operation."""

    type: str
    op: UUID


@dataclass
class MemoryStore:
    """Entities are id -> the JSON their owner shows; capacity holds only those that have one; the shadow is what is
    kept of the peer's entities."""

    relationship: Relationship
    side: Side
    state: Mark = field(init=False)
    rows: dict[UUID, Half] = field(default_factory=dict)
    ended: dict[UUID, Reason] = field(default_factory=dict)
    entities: dict[UUID, bytes] = field(default_factory=dict)
    capacity: dict[UUID, int] = field(default_factory=dict)
    outbox: list[Event] = field(default_factory=list)
    shadow: dict[UUID, bytes] = field(default_factory=dict)
    pending: UUID | None = None

    def __post_init__(self) -> None:
        self.state = Mark(inc=FIRST_INC[self.side], peer_inc=FIRST_INC[self.side.peer])

    # -- messages about operations

    async def record(self, items: Sequence[wire.RecordItem], now_ms: int) -> wire.Verdicts:
        self._open()
        early = now_ms + participant.EARLY_MAX_MS
        verdicts: dict[int, wire.Verdict] = {}
        for i in chain.from_iterable(rounds(items)):
            item = items[i]
            checks = Checks(
                entity=self._own(item.left, item.right) in self.entities,
                taken=self._live_pair(item.left, item.right),
                seat=self._seat(item.right),
                early=operation.time_ms(item.op) > early,
            )
            verdicts[i] = self._apply(Message.RECORD, item.op, checks=checks, pair=(item.left, item.right))
        return self._verdicts(verdicts[i] for i in range(len(items)))

    async def resolve(self, ops: Sequence[UUID]) -> wire.Verdicts:
        self._open()
        return self._verdicts([self._apply(Message.RESOLVE, op) for op in ops])

    async def kill(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts:
        self._open()
        return self._verdicts([self._apply(Message.KILL, item.op, inc=item.inc) for item in items])

    async def cancel(self, ops: Sequence[UUID]) -> wire.Verdicts:
        self._open()
        return self._verdicts([self._apply(Message.CANCEL, op) for op in ops])

    async def ack(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts:
        self._open()
        for item in items:
            self._apply(Message.ACK, item.op, inc=item.inc)
        return self._verdicts([])

    # -- the settler's messages

    async def forward(self, limit: int) -> wire.Cancelled:
        self._open()
        ops = sorted(op for op, half in self.rows.items() if half.status is Status.CANCELLED)
        inc, peer_inc = self._incs()
        return wire.Cancelled(inc, peer_inc, self.state.closed, ops[:limit])

    async def close(self, message: wire.Close) -> wire.Closed:
        self._open()
        self.state = participant.close(self.state, message.time)
        since = self.state.settled if message.since is None else message.since
        live = [op for op in sorted(self._live()) if since < operation.time_ms(op) <= message.time]
        time = message.time
        limit = min(message.limit, LIST_MAX)
        if len(live) > limit:
            time = max(operation.time_ms(live[limit]) - 1, operation.time_ms(live[0]))
            live = [op for op in live if operation.time_ms(op) <= time]
        self._drop_void()
        inc, peer_inc = self._incs()
        return wire.Closed(inc, peer_inc, self.state.closed, self.state.settled, time, live)

    async def settle(self, message: wire.Settle) -> wire.Settled:
        self._open()
        live = self._live()
        done = participant.settle(self.state, message.since, message.time, sorted(message.matched), message.inc, live)
        if done is None:
            return wire.Settled(False, 0, self.state.settled)
        self.state, confirmed = done
        for op in confirmed:
            assert isinstance(op, UUID)
            self._tell("confirmed", op)
        return wire.Settled(True, len(confirmed), self.state.settled)

    async def rejoin(self, message: wire.Rejoin) -> wire.Rejoined:
        self._open()
        self.state = participant.rejoin(self.state, message.inc)
        live = [
            wire.LiveItem(op, half.left, half.right)
            for op, half in sorted(self.rows.items())
            if half.status is Status.LIVE and half.left is not None and half.right is not None
        ]
        return wire.Rejoined(self._incs()[0], self.state.closed, live)

    # -- after a restore of this side

    async def pend(self, inc: UUID) -> bool:
        if self.state.restoring:
            self.pending = inc
        return self.state.restoring

    async def reconcile(self, snapshot: wire.Rejoined, inc: UUID) -> Reconciled | None:
        if not self.state.restoring or self.pending != inc:
            return None
        theirs = {item.op: item for item in snapshot.live}
        times: dict[participant.Id, int] = {op: operation.time_ms(op) for op in (*self.rows, *theirs)}
        done = participant.reconcile(
            self.state,
            {op: half.status for op, half in self.rows.items()},
            times,
            {op for op, item in theirs.items() if self._own(item.left, item.right) not in self.entities},
            participant.Snapshot({op: times[op] for op in theirs}, snapshot.closed, snapshot.inc),
            inc,
        )
        copied, orphaned, dropped, cancelled = map(
            _in_order, (done.copy - self.rows.keys(), done.orphan, done.drop, done.cancelled)
        )
        for op in dropped:
            del self.rows[op]
        for op in copied:
            self.rows[op] = Half(Status.LIVE, theirs[op].left, theirs[op].right)
        for op in orphaned:
            self.rows[op] = Half(Status.CANCELLED, theirs[op].left, theirs[op].right, Reason.LOST)
        for op in cancelled:
            self._tell("cancelled", op)
        self.state, self.pending = done.mark, None
        return Reconciled(copied, orphaned, dropped, cancelled)

    # -- reads

    async def status(self, ops: Sequence[UUID]) -> wire.Statuses:
        self._open()
        items = []
        for op in ops:
            half = self.rows.get(op)
            if half is not None:
                items.append(wire.StatusItem(self._row(op), half.why, half.left, half.right))
            elif op in self.ended:
                items.append(wire.StatusItem(Row.VOID, self.ended[op]))
            else:
                items.append(wire.StatusItem(self._row(op)))
        inc, peer_inc = self._incs()
        return wire.Statuses(inc, peer_inc, self.state.closed, items)

    async def find(self, items: Sequence[wire.PairItem]) -> wire.Founds:
        self._open()
        found = [
            wire.Found(self._live_pair(i.left, i.right), self._own(i.left, i.right) in self.entities) for i in items
        ]
        inc, peer_inc = self._incs()
        return wire.Founds(inc, peer_inc, self.state.closed, found)

    async def list(self, message: wire.List) -> wire.Lists:
        self._open()
        by = Side(message.by)
        inc, peer_inc = self._incs()
        listed = [self._listed(by, item) for item in message.items]
        if message.shadow and self.relationship.end(self.side.peer).copy is not None:
            shadow = {str(id): card for id, card in self.shadow.items()}
            listed = with_shadows(message.items, listed, shadow, mine=by is self.side)
        return wire.Lists(inc, peer_inc, self.state.closed, listed)

    async def mark(self) -> Mark:
        return self.state

    # -- what the owning service does

    def delete(self, entity: UUID) -> None:
        """Delete an entity; its live halves become cancelled ones in the same transaction."""
        for op in sorted(self._live()):
            half = self.rows[op]
            if entity == self._own(half.left, half.right):
                self._write(op, participant.delete_entity(operation.time_ms(op), self.state), None)
        self.entities.pop(entity, None)
        self.capacity.pop(entity, None)

    # -- inside

    def _open(self) -> None:
        if self.state.restoring:
            raise Restoring

    def _own(self, left: Any, right: Any) -> Any:
        return left if self.side is Side.LEFT else right

    def _live(self) -> set[UUID]:
        return {op for op, half in self.rows.items() if half.status is Status.LIVE}

    def _live_pair(self, left: UUID, right: UUID) -> UUID | None:
        for op, half in self.rows.items():
            if half.status is Status.LIVE and half.left == left and half.right == right:
                return op
        return None

    def _seat(self, right: UUID) -> bool:
        if self.side is Side.LEFT or right not in self.capacity:
            return True
        return self.taken(right) < self.capacity[right]

    def taken(self, right: UUID) -> int:
        """Seats in use: live halves of the right entity, confirmed or not."""
        return sum(half.status is Status.LIVE and half.right == right for half in self.rows.values())

    def _row(self, op: UUID) -> Row:
        half = self.rows.get(op)
        return participant.row_of(half.status if half else None, operation.time_ms(op), self.state.closed)

    def _apply(
        self,
        message: Message,
        op: UUID,
        *,
        checks: Checks | None = None,
        inc: UUID | None = None,
        pair: tuple[UUID, UUID] | None = None,
    ) -> wire.Verdict:
        row = self._row(op)
        decision = participant.decide(message, row, self.state, operation.time_ms(op), checks=checks, inc=inc)
        self._write(op, decision, pair)
        half = self.rows.get(op)
        if decision.answer is not Answer.DEAD or half is None:
            return wire.Verdict(decision.answer, decision.why)
        return wire.Verdict(decision.answer, half.why, half.other)

    def _write(self, op: UUID, decision: Decision, pair: tuple[UUID, UUID] | None) -> None:
        if decision.write is None:
            return
        half = self.rows.get(op)
        if half is None:
            other = decision.other if isinstance(decision.other, UUID) else None
            left, right = pair or (None, None)
            self.rows[op] = Half(decision.write, left, right, decision.why, other)
        else:
            half.status = decision.write
            half.why = decision.why or half.why
        if decision.cancelled:
            self._tell("cancelled", op)

    def _tell(self, type: str, op: UUID) -> None:
        if self.side is Side.RIGHT:
            self.outbox.append(Event(f"{self.relationship.name}.{type}", op))

    def _drop_void(self) -> None:
        closed = self.state.closed - VOID_KEEP_MS
        for op in [o for o, h in self.rows.items() if h.status is Status.VOID and operation.time_ms(o) <= closed]:
            why = self.rows.pop(op).why
            if why in _ENDED:
                self.ended[op] = why
        for op in [o for o in self.ended if operation.time_ms(o) <= self.state.closed - ENDED_KEEP_MS]:
            del self.ended[op]

    def _listed(self, by: Side, item: wire.ListItem) -> wire.Listed:
        after = item.after or UUID(int=0)
        mine = by is self.side
        live = []
        for op, half in sorted(self.rows.items()):
            if half.status is Status.LIVE and op > after and half.left is not None and half.right is not None:
                ids = (half.left, half.right) if by is Side.LEFT else (half.right, half.left)
                if ids[0] == item.id:
                    live.append((op, ids[1]))
        live = live[: item.limit]
        cards = [self.entities.get(item.id)] if mine else [self.entities[other] for _, other in live]
        return wire.Listed(
            [str(op) for op, _ in live],
            [str(other) for _, other in live],
            [msgspec.Raw(card) for card in cards if card is not None],
        )

    def _incs(self) -> tuple[UUID, UUID]:
        assert isinstance(self.state.inc, UUID) and isinstance(self.state.peer_inc, UUID)
        return self.state.inc, self.state.peer_inc

    def _verdicts(self, items: Iterable[wire.Verdict]) -> wire.Verdicts:
        return wire.Verdicts(*self._incs(), self.state.closed, list(items))
