"""What must hold in every state: I1 to I7, the order of the marks, and that nobody is stuck.

Each property is checked twice: as things are, and as they will be after one settler has run alone to its
end (:func:`drain`), and then everything that is still on its way has arrived late.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from tally.protocol.participant import Answer, Message, Status
from tally.protocol.settler import Listing, in_order

from .restores import latest_rejoin
from .world import LEFT, NAMES, RIGHT, SIDES, Database, Item, Ledger, Op, State, number, numbers

if TYPE_CHECKING:
    from .explorer import World


class Property(StrEnum):
    I1 = "I1: what was answered created or already exists until somebody ends it"
    I2 = "I2: what was refused is never readable"
    I3 = "I3: no lone half is left after one pass of the settler, whatever arrives late"
    I4 = "I4: one operation per pair, and no more seats used than there are"
    I5 = "I5: confirmed once, only what existed; cancelled follows if it goes"
    I6 = "I6: a cancel is final, and what was meant for an old operation leaves a new one alone"
    I7 = "I7: nothing readable vanishes unless somebody ends it"
    MARKS = "marks: right.settled <= left.closed <= right.closed"
    STUCK = "stuck: each side believes its peer to be who it is"


class Violation(NamedTuple):
    property: Property
    what: str

    def __str__(self) -> str:
        return f"{self.property.name}: {self.what}"


class Drained(NamedTuple):
    """Both databases after a settler ran alone, and the events and losses on the way."""

    databases: tuple[Database, Database]
    confirmed: tuple[Op, ...]
    ended: frozenset[Op]


def check(world: World, state: State, ignore: frozenset[Property] = frozenset()) -> Violation | None:
    """The first property that ``state`` violates, of those not in ``ignore``."""
    for violation in violations(world, state):
        if violation.property not in ignore:
            return violation
    return None


def violations(world: World, state: State) -> Iterator[Violation]:
    """All that is wrong in ``state``."""
    past = world.ledger(state)
    readable = state.databases[LEFT].live & state.databases[RIGHT].live
    yield from _seats_and_pairs(world, state, readable)
    yield from _marks(state)
    if not state.restoring:
        yield from _answers(past, readable, past.ended, "")
    ever = _ever_readable(state)
    if not state.restored:
        yield from _flicker(past, readable, ever)
    yield from _events(state, past, readable, ever)
    yield from _stuck(world, state)
    drained = drain(world, state)
    yield from _whole(world, drained)
    yield from _late(world, state, past, drained)
    yield from _after_all(state, past, drained)


# -- as things are


def _seats_and_pairs(world: World, state: State, readable: frozenset[Op]) -> Iterator[Violation]:
    used = len(state.databases[RIGHT].live)
    if used > world.scenario.seats and not state.restored:
        yield Violation(Property.I4, f"{used} seats are used, there are {world.scenario.seats}")
    if len({world.scenario.pairs[op] for op in readable}) < len(readable):
        yield Violation(Property.I4, f"two operations of one pair are readable: {sorted(readable)}")


def _marks(state: State) -> Iterator[Violation]:
    left, right = state.databases
    if not state.restored and not in_order(left.closed, right.closed, right.settled):
        yield Violation(
            Property.MARKS, f"right.settled={right.settled}, left.closed={left.closed}, right.closed={right.closed}"
        )


def _answers(past: Ledger, readable: frozenset[Op], ended: frozenset[Op], when: str) -> Iterator[Violation]:
    for op in sorted(past.created - ended - readable):
        yield Violation(Property.I1, f"{op} was answered created, nobody ended it, and it is not readable{when}")
    for op in sorted(past.already - ended - readable):
        yield Violation(Property.I1, f"{op} was said to exist already, nobody ended it, and it is not readable{when}")
    for op in sorted(past.failed & readable):
        yield Violation(Property.I2, f"{op} was refused and is readable{when}")
    for op in sorted(past.cancelled & readable):
        yield Violation(Property.I6, f"{op} is readable after its cancel was acknowledged{when}")


def _ever_readable(state: State) -> frozenset[Op]:
    """What a read may have shown, its two halves read at different moments."""
    seen: tuple[set[Op], set[Op]] = (set(), set())
    for fact in state.facts:
        if fact[0] == "recorded":
            seen[fact[1]].add(fact[2])
    return frozenset(seen[LEFT] & seen[RIGHT])


def _flicker(past: Ledger, readable: frozenset[Op], ever: frozenset[Op]) -> Iterator[Violation]:
    for op in sorted(ever - past.ended - readable):
        yield Violation(Property.I7, f"{op} was readable (its halves read at two moments), nobody ended it, it is gone")
    for op in sorted((ever & past.failed) - past.ended):
        yield Violation(Property.I7, f"{op} was readable (its halves read at two moments) and was refused")


def _events(state: State, past: Ledger, readable: frozenset[Op], ever: frozenset[Op]) -> Iterator[Violation]:
    right = state.databases[RIGHT]
    if not state.restored:
        for op in sorted(past.confirmed_twice):
            yield Violation(Property.I5, f"{op} was confirmed twice")
        for op in sorted(past.confirmed_dead):
            yield Violation(Property.I5, f"{op} was confirmed when it was dead at the right side")
        for op in sorted(past.confirmed - right.live - past.cancelled_event):
            yield Violation(
                Property.I5, f"{op} was confirmed, it is gone at the right side, and there is no cancelled event"
            )
    for op in sorted((past.confirmed & past.failed) - past.ended):
        yield Violation(Property.I5, f"{op} was confirmed and was refused")
    for op in sorted(past.confirmed - ever):
        yield Violation(Property.I5, f"{op} was confirmed and never existed")
    if not state.restoring:
        for op in sorted(readable - past.confirmed):
            if op <= right.settled:
                yield Violation(Property.I5, f"{op} is settled and readable, and was never confirmed")


def _stuck(world: World, state: State) -> Iterator[Violation]:
    if state.restored and not state.restoring and world.rules.care.restore_noticed:
        left, right = state.databases
        if (left.inc, right.inc) != (right.peer_inc, left.peer_inc):
            yield Violation(
                Property.STUCK, "a side believes its peer to be somebody else: every proof is refused for ever"
            )


# -- after a settler has run alone


def drain(world: World, state: State) -> Drained:
    """One healthy settler alone, after the rejoin of a side that was restoring; nobody stops, nothing is lost."""
    key = (state.databases, latest_rejoin(state) + 1 if state.restoring else 0)
    if key not in world.drained:
        world.drained[key] = _drain(world, *key)
    return world.drained[key]


def _drain(world: World, databases: tuple[Database, Database], inc: int) -> Drained:
    now = list(databases)
    history: list[Item] = []
    for x in (LEFT, RIGHT):
        if now[x].restoring:
            history += _rejoin(world, now, x, inc)
    last = max(*world.scenario.pairs, *world.scenario.times, now[LEFT].closed, now[RIGHT].closed)
    for _ in range(3):
        for x in (LEFT, RIGHT):
            history += _forward(world, now, x)
        history += _round(world, now, last)
    confirmed = tuple(item[1] for item in history if item[0] == "confirmed")
    ended = frozenset(item[1] for item in history if item[0] == "ended")
    return Drained((now[LEFT], now[RIGHT]), confirmed, ended)


def _rejoin(world: World, now: list[Database], x: int, inc: int) -> tuple[Item, ...]:
    y = 1 - x
    peer = world.sides[y].rejoined(now[y], inc)
    assert peer is not None, "an incarnation that is new is not refused"
    now[y] = peer
    transaction = world.sides[x].reconciled(now[x], inc, numbers(peer.live), peer.closed, peer.inc)
    now[x] = transaction.database
    return transaction.history


def _forward(world: World, now: list[Database], x: int) -> Iterator[Item]:
    """Cancelled rows of ``x`` reach the peer, and are acknowledged."""
    y = 1 - x
    if not world.rules.care.forwards:
        return
    for op, status in sorted(now[x].rows):
        if status is Status.CANCELLED:
            killed = world.sides[y].message(now[y], Message.KILL, op, now[x].inc)
            now[y] = killed.database
            yield from killed.history
            if killed.answer is Answer.DEAD:
                now[x] = world.sides[x].message(now[x], Message.ACK, op, now[y].inc).database


def _round(world: World, now: list[Database], time: int) -> Iterator[Item]:
    """One settle round up to ``time``."""
    since = now[RIGHT].settled
    for x in (RIGHT, LEFT):
        # Whatever CLOSE was ablated to: in the end everything is closed.
        now[x] = now[x]._replace(closed=max(now[x].closed, time))
    start = since if world.rules.care.one_window else now[LEFT].settled
    left = Listing(now[LEFT].inc, world.sides[LEFT].live_in(now[LEFT], start, time))
    right = Listing(now[RIGHT].inc, world.sides[RIGHT].live_in(now[RIGHT], since, time))
    comparison = world.rules.product.compare(left, right)
    for x, op, inc in sorted((SIDES.index(half.side), number(half.op), number(half.inc)) for half in comparison.lone):
        killed = world.sides[x].message(now[x], Message.KILL, op, inc)
        now[x] = killed.database
        yield from killed.history
    settled = world.sides[RIGHT].settle(now[RIGHT], since, time, numbers(comparison.matched), now[RIGHT].inc)
    if settled is not None:
        now[RIGHT] = settled.database
        yield from settled.history
    if not world.rules.care.one_window:
        now[LEFT] = now[LEFT]._replace(settled=time)


def _whole(world: World, drained: Drained) -> Iterator[Violation]:
    left, right = drained.databases
    if left.live != right.live:
        yield Violation(
            Property.I3,
            f"a lone half for ever: after a full pass left has {sorted(left.live)}, right {sorted(right.live)}",
        )
    rows = chain(left.rows, right.rows)
    if world.rules.care.forwards and any(status is Status.CANCELLED for _, status in rows):
        yield Violation(Property.I3, "a cancelled row is never acknowledged")


def _late(world: World, state: State, past: Ledger, drained: Drained) -> Iterator[Violation]:
    """Everything of the past arrives after the pass."""
    whole = drained.databases[LEFT].live & drained.databases[RIGHT].live
    for message in sorted(state.messages):
        x = message[1]
        match message:
            case ("RECORD", _, op) if world.rules.care.close_waits:
                late = world.sides[x].record(drained.databases[x], op)
            case ("IN FLIGHT", _, op):
                late = world.sides[x].record_in_flight(drained.databases[x], op)
            case ("KILL UNSENT", _, op, inc) if op in whole - past.ended:
                if world.sides[x].message(drained.databases[x], Message.KILL, op, inc).answer is not Answer.STALE:
                    yield Violation(Property.I1, f"a late KILL({op}) at {NAMES[x]} would take what exists")
                continue
            case ("ENTITY GONE", _, pair) if ("entity-made", pair) in state.history:
                hit = world.sides[x].live_of(drained.databases[x], pair)
                if hit is not None and hit not in past.ended:
                    yield Violation(
                        Property.I6, f"a late message about the deleted entity removes the new operation {hit}"
                    )
                continue
            case _:
                continue
        if op in late.database.live - drained.databases[x].live:
            yield Violation(
                Property.I3, f"a lone half for ever: a late RECORD({op}) is taken at {NAMES[x]} after the pass"
            )


def _after_all(state: State, past: Ledger, drained: Drained) -> Iterator[Violation]:
    left = drained.databases[LEFT].live
    yield from _answers(past, left, past.ended | drained.ended, " after the settler's pass")
    for op in sorted(left - past.confirmed - frozenset(drained.confirmed)):
        yield Violation(Property.I5, f"{op} exists for good and was never confirmed")
    if not state.restored:
        again = [op for i, op in enumerate(drained.confirmed) if op in past.confirmed or op in drained.confirmed[:i]]
        for op in again:
            yield Violation(Property.I5, f"{op} is confirmed twice, the second time by the settler's pass")
    for op in sorted(past.failed.intersection(drained.confirmed)):
        yield Violation(Property.I5, f"{op} was refused and is confirmed by the settler's pass")
