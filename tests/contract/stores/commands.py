"""Everything that can be done to a participant's store, as values that hypothesis can make, run and shrink.

The ids come from small pools and the times lie around the marks, so that commands have to do with one another. What
only means something beside the present state (the settled mark, the own incarnation) is None, and
resolved from the reference store when the command runs.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from tally.halves.store import FIRST_INC, VOID_KEEP_MS, Restoring
from tally.protocol import messages as wire
from tally.protocol.participant import EARLY_MAX_MS, Mark
from tally.protocol.relationship import Side
from tests.support.stores import Kit, inc_id, left_id, op_at, own_of, right_id

BASE = 1_000_000
CLOCKS = (BASE, BASE + VOID_KEEP_MS)
TIMES = (BASE, BASE + 1, BASE + 2, BASE + 3, BASE + EARLY_MAX_MS + 1, BASE + VOID_KEEP_MS + 1)
OPS = tuple(op_at(time_ms, number) for time_ms in TIMES for number in range(3))
LEFTS = tuple(left_id(number) for number in range(1, 4))
RIGHTS = tuple(right_id(number) for number in range(1, 4))
BATCH = 8
RESTORED = inc_id(2)

Pair = tuple[UUID, UUID]


@dataclass(frozen=True)
class Do(ABC):
    """One command; a subclass says what it does to a kit. ``mark`` is the reference store's at that moment."""

    @abstractmethod
    async def to(self, kit: Kit, mark: Mark) -> object: ...


@dataclass(frozen=True)
class Add(Do):
    number: int
    capacity: int | None

    async def to(self, kit: Kit, mark: Mark) -> object:
        entity = _own(kit, self.number)
        found = await _aside(kit, kit.store.find([wire.PairItem(*_with(kit, entity))]))
        if not found.items[0].entity:
            await kit.add(entity, self.capacity)
        return None


@dataclass(frozen=True)
class Remove(Do):
    number: int

    async def to(self, kit: Kit, mark: Mark) -> object:
        await kit.remove(_own(kit, self.number))
        return None


@dataclass(frozen=True)
class SetCapacity(Do):
    number: int
    capacity: int | None

    async def to(self, kit: Kit, mark: Mark) -> object:
        if kit.relationship.end(kit.side).seats is None:
            return None
        return await kit.set_capacity(_own(kit, self.number), self.capacity)


@dataclass(frozen=True)
class Record(Do):
    items: Sequence[tuple[UUID, UUID, UUID]]
    clock: int

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.record([wire.RecordItem(*item) for item in self.items], self.clock)


@dataclass(frozen=True)
class Resolve(Do):
    ops: Sequence[UUID]

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.resolve(self.ops)


@dataclass(frozen=True)
class Kill(Do):
    ops: Sequence[UUID]
    incs: Sequence[UUID | None]  # None: the peer's, as this side knows it

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.kill(_proofs(self.ops, self.incs, mark))


@dataclass(frozen=True)
class Cancel(Do):
    ops: Sequence[UUID]

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.cancel(self.ops)


@dataclass(frozen=True)
class Ack(Do):
    ops: Sequence[UUID]
    incs: Sequence[UUID | None]

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.ack(_proofs(self.ops, self.incs, mark))


@dataclass(frozen=True)
class Forward(Do):
    limit: int

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.forward(self.limit)


@dataclass(frozen=True)
class Close(Do):
    time: int
    since: int | None
    limit: int

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.close(wire.Close(self.time, self.since, self.limit))


@dataclass(frozen=True)
class Settle(Do):
    since: int | None  # None: the settled mark
    time: int
    matched: Sequence[UUID]
    inc: UUID | None  # None: the own one

    async def to(self, kit: Kit, mark: Mark) -> object:
        if kit.side is Side.LEFT:
            return None
        since = mark.settled if self.since is None else self.since
        inc = _uuid(mark.inc) if self.inc is None else self.inc
        return await kit.store.settle(wire.Settle(since, self.time, inc, list(self.matched)))


@dataclass(frozen=True)
class Rejoin(Do):
    inc: UUID

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.rejoin(wire.Rejoin(self.inc))


@dataclass(frozen=True)
class BecomeAnother(Do):
    inc: UUID

    async def to(self, kit: Kit, mark: Mark) -> object:
        await kit.set_inc(self.inc)
        return None


@dataclass(frozen=True)
class Restore(Do):
    """This side is a backup of itself, and its peer has these live. ``latest``: no earlier answer comes first."""

    live: Sequence[tuple[UUID, UUID, UUID]]
    closed: int
    latest: bool

    async def to(self, kit: Kit, mark: Mark) -> object:
        items = await self._consistent(kit)
        await kit.set_restoring(True)
        assert await kit.store.pend(RESTORED)
        snapshot = wire.Rejoined(_uuid(mark.peer_inc), self.closed, items)
        if not self.latest:
            assert await kit.store.reconcile(snapshot, inc_id(3)) is None
        return await kit.store.reconcile(snapshot, RESTORED)

    async def _consistent(self, kit: Kit) -> list[wire.LiveItem]:
        """An operation has one pair on both sides, and a pair one live operation on each."""
        rows = (await kit.state()).rows
        by_pair: dict[Pair, wire.LiveItem] = {}
        for op, left, right in self.live:
            held = rows.get(op)
            pair = (held.left, held.right) if held and held.left and held.right else (left, right)
            by_pair.setdefault(pair, wire.LiveItem(op, *pair))
        return list(by_pair.values())


@dataclass(frozen=True)
class Status(Do):
    ops: Sequence[UUID]

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.status(self.ops)


@dataclass(frozen=True)
class Find(Do):
    pairs: Sequence[Pair]

    async def to(self, kit: Kit, mark: Mark) -> object:
        return await kit.store.find([wire.PairItem(*pair) for pair in self.pairs])


@dataclass(frozen=True)
class List(Do):
    by: Side
    items: Sequence[tuple[int, UUID | None, int]]

    async def to(self, kit: Kit, mark: Mark) -> object:
        ids = LEFTS if self.by is Side.LEFT else RIGHTS
        items = [wire.ListItem(ids[number], after, limit) for number, after, limit in self.items]
        reply = await kit.store.list(wire.List(self.by.value, items))
        # Cards are compared as what they say, not as their bytes.
        cards = [[json.loads(bytes(card)) for card in one.entities] for one in reply.items]
        return reply.inc, reply.peer_inc, reply.closed, [(one.ops, one.others) for one in reply.items], cards


@dataclass(frozen=True)
class WhileRestoring(Do):
    """Any command, sent to a side that is being restored. What the owner does goes on."""

    command: Do

    async def to(self, kit: Kit, mark: Mark) -> object:
        await kit.set_restoring(True)
        try:
            return await self.command.to(kit, mark)
        except Restoring:
            return "restoring"
        finally:
            await kit.set_restoring(False)


def _own(kit: Kit, number: int) -> UUID:
    return own_of(kit.side, LEFTS[number], RIGHTS[number])


def _with(kit: Kit, entity: UUID) -> Pair:
    return (entity, RIGHTS[0]) if kit.side is Side.LEFT else (LEFTS[0], entity)


async def _aside(kit: Kit, asked: Any) -> wire.Founds:
    found: wire.Founds = await asked
    return found


def _proofs(ops: Sequence[UUID], incs: Sequence[UUID | None], mark: Mark) -> list[wire.ProofItem]:
    return [
        wire.ProofItem(op, _uuid(mark.peer_inc) if inc is None else inc) for op, inc in zip(ops, incs, strict=False)
    ]


def _uuid(id: object) -> UUID:
    assert isinstance(id, UUID)
    return id


# -- strategies

# Most operations are early and most marks near them: what is closed for good has nothing more to show.
EARLY = TIMES[:4]
numbers = st.integers(0, 2)
ops = st.sampled_from(OPS[: 3 * len(EARLY)] * 3 + OPS)
some_ops = st.lists(ops, max_size=BATCH)
pairs = st.tuples(st.sampled_from(LEFTS), st.sampled_from(RIGHTS))
capacities = st.none() | st.integers(0, 3)
times = st.sampled_from((*EARLY * 3, *TIMES, TIMES[-1] + VOID_KEEP_MS))
clocks = st.sampled_from((CLOCKS[0],) * 4 + CLOCKS)
incs = st.sampled_from((FIRST_INC[Side.LEFT], FIRST_INC[Side.RIGHT], inc_id(1)))
# Mostly the right one: what is refused for its incarnation shows nothing else.
maybe_incs = st.lists(st.sampled_from((None,) * 6 + (inc_id(1),)), min_size=BATCH, max_size=BATCH)

items = st.tuples(ops, pairs).map(lambda item: (item[0], *item[1]))
records = st.builds(Record, st.lists(items, max_size=BATCH), clocks)
closings = st.builds(Close, times, st.none() | st.just(0) | times, st.integers(1, 4) | st.just(1000))
messages = st.one_of(
    records,
    st.builds(Resolve, some_ops),
    st.builds(Kill, some_ops, maybe_incs),
    st.builds(Cancel, some_ops),
    st.builds(Ack, some_ops, maybe_incs),
    st.builds(Forward, st.integers(0, 4)),
    closings,
    st.builds(
        Settle,
        st.sampled_from((None,) * 5 + TIMES[:1]),
        times,
        st.lists(ops, unique=True) | st.just(OPS),
        st.sampled_from((None, None, None, inc_id(1))),
    ),
    st.builds(Rejoin, incs),
    st.builds(Status, some_ops),
    st.builds(Find, st.lists(pairs, max_size=BATCH)),
    st.builds(
        List,
        st.sampled_from(Side),
        st.lists(st.tuples(numbers, st.none() | ops, st.integers(1, 4)), max_size=4),
    ),
)
owners = st.one_of(
    st.builds(Add, numbers, capacities),
    st.builds(Remove, numbers),
    st.builds(SetCapacity, numbers, capacities),
    st.builds(BecomeAnother, incs),
    st.builds(
        Restore,
        st.lists(items, max_size=BATCH, unique_by=lambda item: item[0]),
        times,
        st.booleans(),
    ),
)
commands = st.one_of(messages, messages, records, closings, owners, st.builds(WhileRestoring, messages))
scripts = st.tuples(
    # A script begins with entities and a few halves: without them nothing has an effect.
    st.tuples(*(st.builds(Add, st.just(number), capacities) for number in range(3))),
    st.builds(
        Record,
        st.lists(items, min_size=1, max_size=BATCH, unique_by=(lambda item: item[0], lambda item: item[1:])),
        clocks,
    ),
    st.lists(commands, min_size=3, max_size=20),
).map(lambda parts: [*parts[0], parts[1], *parts[2]])
