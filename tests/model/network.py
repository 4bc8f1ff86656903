"""Deliveries: any message that was ever sent may arrive now.

A delivery that changes nothing and tells nobody anything new is no step; the explorer drops it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from tally.protocol.participant import Message, Status

from .restores import answer_rejoin
from .rules import Collection
from .world import LEFT, NAMES, NO_PROOF, RIGHT, Item, State, Step

if TYPE_CHECKING:
    from .explorer import World
    from .participants import Transaction


def deliveries(world: World, state: State) -> Iterator[Step]:
    """Every message that may arrive, then what needs no message of its own."""
    for message in sorted(state.messages):
        yield from _delivery(world, state, message)
    yield from _proofs(world, state)
    if world.rules.care.forwards:
        yield from _forwards(world, state)
    if world.rules.care.collection is not Collection.AT_ONCE:
        yield from _collections(world, state)


def _delivery(world: World, state: State, message: Item) -> Iterator[Step]:
    match message:
        case ("SETTLE", since, time, matched, inc):
            yield from _settle(world, state, since, time, matched, inc)
        case ("LEFT SETTLES", time):
            left = state.databases[LEFT]
            if time > left.settled:
                yield Step(f"left notes settled={time}", state.after(databases={LEFT: left._replace(settled=time)}))
        case ("REJOIN", *_):
            pass  # only the process that asked for it can use it: see restores.py
        case ("REJOIN ASKED", y, inc):
            yield from answer_rejoin(world, state, y, inc)
        case (_, x, *_) if state.databases[x].restoring:
            pass  # a side that has not rejoined serves no message
        case ("RECORD", x, op) if world.rules.care.close_waits:
            transaction = world.sides[x].record(state.databases[x], op)
            yield from done(state, x, transaction, f"RECORD({op})", world.taken_of_creates(transaction.facts))
        case ("RECORD", x, op):
            database = state.databases[x]
            if database.status(op) is None and op > database.closed:
                label = f"{NAMES[x]} begins RECORD({op}), reads closed={database.closed}"
                yield Step(label, state.after(messages=[("IN FLIGHT", x, op)]))
        case ("IN FLIGHT", x, op):
            transaction = world.sides[x].record_in_flight(state.databases[x], op)
            yield from done(state, x, transaction, f"commits RECORD({op})")
        case ("RESOLVE", x, op):
            transaction = world.sides[x].message(state.databases[x], Message.RESOLVE, op)
            yield from done(state, x, transaction, f"RESOLVE({op})")
        case ("CANCEL", x, op):
            yield from _cancel(world, state, x, op)
        case ("KILL", x, op, inc):
            transaction = world.sides[x].message(state.databases[x], Message.KILL, op, inc)
            yield from done(state, x, transaction, f"KILL({op}) {_ground(x, inc)}")
        case ("KILL UNSENT", x, op, inc):
            transaction = world.sides[x].message(state.databases[x], Message.KILL, op, inc)
            yield from done(
                state, x, transaction, f"KILL({op}), as RECORD never left for {NAMES[1 - x]}, incarnation {inc}"
            )
        case ("ENTITY GONE", x, pair):
            database = state.databases[x]
            op = world.sides[x].live_of(database, pair)
            if op is not None:
                transaction = world.sides[x].message(database, Message.KILL, op, database.peer_inc)
                yield from done(state, x, transaction, f"hears that the other entity of {pair!r} is gone, removes {op}")


def _ground(x: int, inc: int) -> str:
    return "without proof" if inc == NO_PROOF else f"on the word of {NAMES[1 - x]}, incarnation {inc}"


def _cancel(world: World, state: State, x: int, op: int) -> Iterator[Step]:
    database, hit = state.databases[x], op
    if not world.rules.care.by_op:
        other = world.sides[x].live_of(database, world.scenario.pairs[op])
        if other is None:
            return
        hit = other
    transaction = world.sides[x].message(database, Message.CANCEL, hit)
    yield from done(state, x, transaction, f"CANCEL({op})" + ("" if hit == op else f" hits {hit}"))


def _settle(world: World, state: State, since: int, time: int, matched: tuple[int, ...], inc: int) -> Iterator[Step]:
    right = state.databases[RIGHT]
    if right.restoring or (transaction := world.sides[RIGHT].settle(right, since, time, matched, inc)) is None:
        return
    known = world.ledger(state).confirmed
    events = [
        ("confirmed-twice" if kind == "confirmed" and op in known else kind, op) for kind, op in transaction.history
    ]
    messages: list[Item] = [] if world.rules.care.one_window else [("LEFT SETTLES", time)]
    confirmed = [op for kind, op in events if kind != "confirmed-dead"]
    yield Step(
        f"right SETTLE({since}, {time}): confirms {confirmed}",
        state.after(databases={RIGHT: transaction.database}, messages=messages, history=events),
    )


def _proofs(world: World, state: State) -> Iterator[Step]:
    """What a proof justifies: KILL at the peer, or ACK of the peer's cancelled row."""
    for fact in sorted(state.facts):
        if fact[0] != "dead":
            continue
        _, y, op, inc = fact
        x = 1 - y
        database = state.databases[x]
        if database.restoring:
            continue
        if database.status(op) is Status.CANCELLED:
            transaction = world.sides[x].message(database, Message.ACK, op, inc)
            yield from done(state, x, transaction, f"ACK({op}): {NAMES[y]}, incarnation {inc}, knows of the cancel")
        else:
            transaction = world.sides[x].message(database, Message.KILL, op, inc)
            yield from done(state, x, transaction, f"KILL({op}): {NAMES[y]}, incarnation {inc}, is dead for it")


def _forwards(world: World, state: State) -> Iterator[Step]:
    """A cancelled row reaches the peer, as a KILL on the word of the side that has it."""
    if state.restoring:
        return
    for x, database in enumerate(state.databases):
        for op, status in sorted(database.rows):
            if status is Status.CANCELLED:
                y = 1 - x
                transaction = world.sides[y].message(state.databases[y], Message.KILL, op, database.inc)
                yield from done(state, y, transaction, f"KILL({op}): the cancel at {NAMES[x]}, forwarded")


def _collections(world: World, state: State) -> Iterator[Step]:
    closed_only = world.rules.care.collection is Collection.SOME_TIME
    for x, database in enumerate(state.databases):
        if database.restoring:
            continue
        for op in world.sides[x].void(database, closed_only=closed_only):
            yield Step(f"{NAMES[x]} drops the void row of {op}", state.after(databases={x: database.drop([op])}))


def done(
    state: State, x: int, transaction: Transaction, label: str, facts: Iterable[Item] | None = None
) -> Iterator[Step]:
    """The step of one transaction at side ``x``, if it changes anything or tells anything new."""
    told = transaction.facts if facts is None else facts
    if transaction.database is not state.databases[x] or not state.facts.issuperset(told):
        after = state.after(databases={x: transaction.database}, facts=told, history=transaction.history)
        yield Step(f"{NAMES[x]} {label} -> {transaction.said}", after)
