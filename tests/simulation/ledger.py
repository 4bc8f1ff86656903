"""The truth: what both databases held at every moment, and what must hold of it at every moment.

Looks at the stores from outside, after each transaction, and believes nothing that the product says of itself.
A half's life is two moments: when it was live first, and when it was dead. ``ended`` operations are those that
somebody cancelled, or whose entity was deleted, when a half was live.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from uuid import UUID

from tally.halves.memory import MemoryStore
from tally.protocol.operation import time_ms
from tally.protocol.participant import Mark, Status
from tally.protocol.relationship import Side
from tests.simulation.history import History, Property

#: The bits of an operation's id that its gateway drew: they tell which request it was made for.
DRAWN = (0xFFF << 64) | ((1 << 62) - 1)


@dataclass(slots=True)
class Life:
    """One half."""

    live: int | None = None
    dead: int | None = None

    def at_some_moment(self, start: int, end: int) -> bool:
        """Was it live at some moment from ``start`` to ``end``?"""
        return self.live is not None and self.live <= end and (self.dead is None or self.dead > start)

    def throughout(self, start: int, end: int) -> bool:
        return self.live is not None and self.live <= start and (self.dead is None or self.dead > end)


@dataclass(eq=False, slots=True)
class Operation:
    """All that is known of an operation; ``request`` is the number of the request that made it."""

    id: UUID
    request: int | None
    left: UUID | None = None
    right: UUID | None = None
    lives: dict[Side, Life] = field(default_factory=lambda: {side: Life() for side in Side})
    ended: str | None = None
    refused: bool = False
    acknowledged: bool = False  # its cancel was
    confirmed: int | None = None
    cancelled: int | None = None

    @property
    def born(self) -> bool:
        """Both halves were live, if not at one moment: a read may have shown it."""
        return all(life.live is not None for life in self.lives.values())

    @property
    def exists(self) -> bool:
        return all(life.live is not None and life.dead is None for life in self.lives.values())

    @property
    def existed(self) -> bool:
        """Both halves were live at one moment."""
        left, right = self.lives[Side.LEFT], self.lives[Side.RIGHT]
        if left.live is None or right.live is None:
            return False
        both = max(left.live, right.live)
        return all(life.dead is None or life.dead > both for life in (left, right))

    def at_some_moments(self, start: int, end: int) -> bool:
        """Was each half live at some moment of its own in this while? What a read may show, and no more."""
        return all(life.at_some_moment(start, end) for life in self.lives.values())

    def throughout(self, start: int, end: int) -> bool:
        """Were both halves live all the while? What a read must show."""
        return all(life.throughout(start, end) for life in self.lives.values())


@dataclass(slots=True)
class Timeline:
    """A value over time."""

    values: list[tuple[int, object]] = field(default_factory=list)

    def set(self, moment: int, value: object) -> None:
        if not self.values or self.values[-1][1] != value:
            self.values.append((moment, value))

    def had(self, value: object, start: int, end: int) -> bool:
        """Was it ``value`` at some moment from ``start`` to ``end``? Before it was set first, it was False."""
        spans = [(-1, False), *self.values, (end + 1, None)]
        return any(held == value and since <= end and until > start for (since, held), (until, _) in pairwise(spans))


class Ledger:
    """Both databases over time."""

    def __init__(self, history: History, stores: dict[Side, MemoryStore]) -> None:
        self.stores = stores
        self.operations: dict[UUID, Operation] = {}
        self.by_request: dict[int, list[Operation]] = {}
        self.made_for: dict[int, int] = {}  # drawn bits -> request
        self.entities: dict[Side, dict[UUID, Timeline]] = {side: {} for side in Side}
        self.full: dict[UUID, Timeline] = {}
        self._history = history
        self._rows: dict[Side, dict[UUID, Status]] = {side: {} for side in Side}
        self._marks: dict[Side, Mark] = {side: store.state for side, store in stores.items()}
        self._told = 0  # events of the outbox that were seen

    def operation(self, id: UUID) -> Operation:
        if id not in self.operations:
            operation = Operation(id, self.made_for.get(id.int & DRAWN))
            self.operations[id] = operation
            self._history.call(id, f"op{len(self.operations)}")
            if operation.request is not None:
                self.by_request.setdefault(operation.request, []).append(operation)
        return self.operations[id]

    def dead(self, operation: Operation, side: Side) -> bool:
        """Is ``side`` dead for it now: the proof that everything rests on."""
        half = self.stores[side].rows.get(operation.id)
        if half is not None:
            return half.status is not Status.LIVE
        return time_ms(operation.id) <= self.stores[side].state.closed

    def refuse(self, operation: Operation, why: str) -> None:
        """A client was told that it doesn't exist, and never will.

        It may have existed if somebody ended it since: then the refusal comes too late to be quite true, but
        nothing is there that it denies. That's for its caller to judge.
        """
        operation.refused = True
        proven = any(self.dead(operation, side) for side in Side)
        if not proven:
            self._violate(Property.I2, f"{operation.id} was refused ({why}), and no side is dead for it")
        self._check_refused(operation)

    def recording(self, side: Side, ops: list[UUID]) -> None:
        """RECORD has arrived; count what came too late to be taken."""
        store = self.stores[side]
        late = sum(op not in store.rows and time_ms(op) <= store.state.closed for op in ops)
        self._history.count("records after their epoch was closed", late)

    # -- one transaction

    def committed(self, side: Side, message: str) -> None:
        """``side`` has committed a transaction: find what it changed, and check it."""
        store, before = self.stores[side], self._marks[side]
        changed = self._changed(side)
        told = store.outbox[self._told :] if side is Side.RIGHT else []
        if changed or told or message in ("make", "delete", "resize"):
            whats = [f"{op} {old.value if old else '-'}→{new.value if new else '-'}" for op, old, new in changed]
            whats += [f"{event.type.rsplit('.')[-1]}({event.op})" for event in told]
            moment = self._history.note(side.value, message, *whats)
            for op, old, new in changed:
                self._moved(moment, side, message, self.operation(op), old, new, before)
            if side is Side.RIGHT:
                self._events(moment, changed)
            self._own(moment, side)
        self._check_marks(side, before)

    def _changed(self, side: Side) -> list[tuple[UUID, Status | None, Status | None]]:
        rows, shadow = self.stores[side].rows, self._rows[side]
        changed: list[tuple[UUID, Status | None, Status | None]] = [
            (op, shadow.get(op), half.status) for op, half in rows.items() if shadow.get(op) is not half.status
        ]
        if len(rows) < len(shadow) + len(changed):
            changed += [(op, shadow[op], None) for op in sorted(shadow.keys() - rows.keys())]
        for op, _, new in changed:
            if new is None:
                del shadow[op]
            else:
                shadow[op] = new
        return changed

    def _moved(
        self,
        moment: int,
        side: Side,
        message: str,
        operation: Operation,
        old: Status | None,
        new: Status | None,
        before: Mark,
    ) -> None:
        """One row changed its status."""
        life, op = operation.lives[side], operation.id
        half = self.stores[side].rows.get(op)
        if half is not None and half.left is not None:
            operation.left, operation.right = half.left, half.right
        match old, new:
            case None, Status.LIVE:
                if time_ms(op) <= before.closed or life.dead is not None or life.live is not None:
                    self._violate(Property.DEAD, f"{op} was dead at the {side} side and became live by {message}")
                life.live = moment
                self._history.count("halves recorded")
            case None, Status.VOID:
                life.dead = moment
                self._history.count("fences" if half is None or half.left is None else f"refusals: {half.why}")
            case Status.LIVE, Status.VOID | Status.CANCELLED:
                life.dead = moment
                if new is Status.CANCELLED:
                    operation.ended = operation.ended or message
                    self._history.count("halves cancelled" if message == "cancel" else "halves of deleted entities")
                else:
                    self._history.count("cancels forwarded" if operation.ended else "lone halves killed")
            case Status.CANCELLED, Status.VOID:
                if message != "ack" or not self.dead(operation, side.peer):
                    self._violate(Property.I3, f"{side} forgot the cancel of {op}, and its peer is not dead for it")
            case Status.VOID, None:
                self._history.count("void rows collected")
                if time_ms(op) > self.stores[side].state.closed:
                    self._violate(Property.DEAD, f"{side} forgot that it is dead for {op}, whose epoch is open")
            case _:
                self._violate(Property.DEAD, f"{op} went from {old} to {new} at the {side} side by {message}")
        self._check_whole(operation, side, message)
        self._check_refused(operation)
        if new is Status.LIVE:
            self._check_alone(operation, side)

    # -- what must hold

    def _check_whole(self, operation: Operation, side: Side, message: str) -> None:
        if operation.born and not operation.ended and not operation.exists:
            what = f"{operation.id} was live at both sides, nobody ended it, and {message} took it from the {side} side"
            self._violate(Property.I7, what)

    def _check_refused(self, operation: Operation) -> None:
        if operation.refused and operation.born and not operation.ended:
            self._violate(Property.I2, f"{operation.id} was refused, and was readable")

    def _check_alone(self, operation: Operation, side: Side) -> None:
        """One live operation of a pair on each side, and no more of them than seats."""
        store = self.stores[side]
        pair = [
            op
            for op, half in store.rows.items()
            if half.status is Status.LIVE and (half.left, half.right) == (operation.left, operation.right)
        ]
        if len(pair) > 1:
            self._violate(Property.I4, f"{pair} are live at the {side} side for one pair")

    def _events(self, moment: int, changed: list[tuple[UUID, Status | None, Status | None]]) -> None:
        store = self.stores[Side.RIGHT]
        for event in store.outbox[self._told :]:
            operation = self.operation(event.op)
            life = operation.lives[Side.RIGHT]
            if event.type.endswith(".confirmed"):
                self._history.count("confirmed")
                if operation.confirmed is not None:
                    self._violate(Property.I5, f"{event.op} was confirmed twice")
                if not operation.born or life.dead is not None or operation.refused:
                    self._violate(Property.I5, f"{event.op} was confirmed, and doesn't exist")
                operation.confirmed = moment
            else:
                self._history.count("cancelled after confirmed")
                if operation.confirmed is None or operation.cancelled is not None or life.dead is None:
                    self._violate(Property.I5, f"{event.op} was told to be cancelled without reason")
                operation.cancelled = moment
        self._told = len(store.outbox)
        for op, old, _ in changed:
            operation = self.operation(op)
            if old is Status.LIVE and operation.confirmed is not None and operation.cancelled is None:
                self._violate(Property.I5, f"{op} was confirmed, is gone, and no cancelled event says so")

    def _own(self, moment: int, side: Side) -> None:
        """Entities and seats."""
        store = self.stores[side]
        for entity in (*self.entities[side], *store.entities):
            self.entities[side].setdefault(entity, Timeline()).set(moment, entity in store.entities)
        if side is Side.RIGHT:
            for entity in (*self.full, *store.capacity):
                taken, seats = store.taken(entity), store.capacity.get(entity)
                self.full.setdefault(entity, Timeline()).set(moment, seats is not None and taken >= seats)
                if seats is not None and taken > seats:
                    self._violate(Property.I4, f"{taken} seats of {entity} are taken, there are {seats}")

    def _check_marks(self, side: Side, before: Mark) -> None:
        now = self.stores[side].state
        if now == before:
            return
        self._marks[side] = now
        left, right = self._marks[Side.LEFT], self._marks[Side.RIGHT]
        if not right.settled <= left.closed <= right.closed:
            what = f"right.settled={right.settled} left.closed={left.closed} right.closed={right.closed}"
            self._violate(Property.MARKS, what)
        if now.closed < before.closed or now.settled < before.settled:
            self._violate(Property.MARKS, f"the marks of the {side} side went back from {before} to {now}")

    def _violate(self, property: Property, what: str) -> None:
        self._history.violate(property, what)
