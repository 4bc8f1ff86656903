"""Who acts: gateways, cancels, entities that come and go, settlers. One step at a time, in any order.

A process's local state is a tuple that starts with its program counter. A process that takes no further
step has crashed, so nothing here needs a crash of its own, except that a settler starts over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tally.protocol import gateway
from tally.protocol.gateway import SILENT, UNSENT, Evidence
from tally.protocol.participant import Reason
from tally.protocol.relationship import Side
from tally.protocol.settler import Listing

from .scenarios import Cancel, Create, DeleteEntity, HalfCreate, MakeEntity, Settler
from .world import LEFT, NAMES, RIGHT, SIDES, Item, Items, Op, State, Step, numbers

if TYPE_CHECKING:
    from .explorer import World

START: Item = ("start",)
WAITING: Item = ("waiting",)
KILLING: Item = ("killing",)
GAVE_UP: Item = ("gave up",)
END: Item = ("end",)


def moves(world: World, state: State) -> Iterator[Step]:
    """What every process may do now."""
    for i, process in enumerate(world.scenario.processes):
        local = state.processes[i]
        if local is END:
            continue
        match process:
            case Create():
                yield from _create(world, state, i, process)
            case HalfCreate():
                yield from _half_create(world, state, i, process)
            case Cancel():
                yield from _cancel(world, state, i, process)
            case DeleteEntity():
                yield from _delete_entity(world, state, i, process)
            case MakeEntity():
                yield from _make_entity(world, state, i, process)
            case Settler():
                yield from _settler(world, state, i, process)


def may_start(state: State, after: Item | None) -> bool:
    return after is None or after in state.history


# -- gateways


def _create(world: World, state: State, i: int, process: Create) -> Iterator[Step]:
    op, local = process.op, state.processes[i]
    if local == START:
        if may_start(state, process.after):
            yield _sends_record(world, state, i, process)
        return
    for verdict in world.conclusions(facts_of(state, op)):
        answer = f"{process.name} answers {{}}({op})"
        match verdict:
            case gateway.Refused():
                yield Step(answer.format("refused"), state.after(process=(i, END), history=[("failed", op)]))
            case _ if local == GAVE_UP:
                pass
            case gateway.Created():
                yield Step(answer.format("created"), state.after(process=(i, END), history=[("created", op)]))
            case gateway.Already(other):
                label = f"{process.name} answers already({other}) for {op}"
                yield Step(label, state.after(process=(i, END), history=[("already", other), ("failed", op)]))
            case gateway.Kill(side, inc) if ("dead", SIDES.index(side.peer), op, inc) not in state.facts:
                # Never the product's: without a proof, so no fact delivers it.
                message = ("KILL", SIDES.index(side), op, inc)
                label = f"{process.name} gives up, sends KILL({op}) to {side} without proof"
                yield Step(label, state.after(process=(i, GAVE_UP), messages=[message]))
            case gateway.Kill() | gateway.RecordAgain() | gateway.Resolve() | gateway.Unknown():
                pass  # a proof delivers the KILL, and what was sent once may always arrive again


def _sends_record(world: World, state: State, i: int, process: Create) -> Step:
    op = process.op
    messages: list[Item] = [("RECORD", LEFT, op), ("RECORD", RIGHT, op)]
    # The shortcut: the time-out comes at once, and what it sends may arrive at any time.
    match world.rules.product.create(SILENT, SILENT, expired=False):
        case gateway.Resolve(sides):
            messages += [("RESOLVE", SIDES.index(side), op) for side in sides]
    return Step(
        f"{process.name} sends RECORD({op}) to both",
        state.after(process=(i, WAITING), messages=messages, history=[("started", op)]),
    )


def _half_create(world: World, state: State, i: int, process: HalfCreate) -> Iterator[Step]:
    op, x, local = process.op, process.side, state.processes[i]
    if local == START:
        if may_start(state, process.after):
            messages: list[Item] = [("RECORD", x, op), ("RESOLVE", x, op)]
            known = state.databases[x].peer_inc
            yield Step(
                f"{process.name} sends RECORD({op}) to {NAMES[x]} only, knowing its peer as incarnation {known}",
                state.after(process=(i, ("waiting", known)), messages=messages, history=[("started", op)]),
            )
        return
    if local == KILLING and not world.rules.care.never_resends:
        label = f"{process.name} sends RECORD({op}) to {NAMES[1 - x]} after all"
        yield Step(label, state.after(process=(i, END), messages=[("RECORD", 1 - x, op)]))
    for fact in sorted(facts_of(state, op)):
        if fact[1] != x:
            continue
        sides: tuple[Evidence, Evidence] = (evidence(fact), UNSENT)
        left, right = sides if x == LEFT else sides[::-1]
        match world.rules.product.create(left, right, expired=False):
            case gateway.Refused():
                label = f"{process.name} answers refused({op})"
                yield Step(label, state.after(process=(i, END), history=[("failed", op)]))
            case gateway.KillUnsent(side) if local != KILLING:
                assert side is SIDES[x], "the KILL goes to the side that RECORD was sent to"
                inc = local[1] if world.rules.care.pins_before else fact[4]
                message = ("KILL UNSENT", x, op, inc)
                label = f"{process.name} sends KILL({op}) to {NAMES[x]}"
                yield Step(label, state.after(process=(i, KILLING), messages=[message]))


def _cancel(world: World, state: State, i: int, process: Cancel) -> Iterator[Step]:
    op = process.op
    if state.processes[i] == START:
        if ("started", op) in state.history:
            yield Step(
                f"{process.name} sends CANCEL({op}) to both",
                state.after(
                    process=(i, WAITING),
                    messages=[("CANCEL", LEFT, op), ("CANCEL", RIGHT, op)],
                    history=[("ended", op)],
                ),
            )
        return
    dead = [gateway.Dead(None, None) if any(world.dead(state, x, op)) else SILENT for x in (LEFT, RIGHT)]
    for expired in world.deadlines:
        match world.rules.product.cancel(*dead, expired=expired):
            case gateway.Refused():
                label = f"{process.name} answers cancelled({op})"
                yield Step(label, state.after(process=(i, END), history=[("cancelled", op)]))


def facts_of(state: State, op: Op) -> Items:
    return frozenset(fact for fact in state.facts if fact[2] == op)


def evidence(fact: Item) -> Evidence:
    """A fact as the gateway's functions take it."""
    match fact:
        case ("recorded", _, _, inc, peer_inc):
            return gateway.Recorded(inc, peer_inc)
        case ("taken", _, _, other, inc, peer_inc):
            return gateway.Dead(inc, peer_inc, Reason.TAKEN, other)
        case ("dead", _, _, inc):
            return gateway.Dead(inc, None)
        case _:
            raise ValueError(f"{fact} is not said of an operation")


# -- entities


def _delete_entity(world: World, state: State, i: int, process: DeleteEntity) -> Iterator[Step]:
    x, pair = process.side, process.pair
    if not may_start(state, process.after) or state.databases[x].restoring:
        return
    transaction = world.sides[x].delete_entity(state.databases[x], pair)
    started = world.ledger(state).started
    ended = [("ended", op) for op in sorted(started) if world.scenario.pairs[op] == pair]
    yield Step(
        f"{NAMES[x]} deletes its entity of {pair!r}",
        state.after(
            databases={x: transaction.database},
            process=(i, END),
            messages=[] if world.rules.care.by_op else [("ENTITY GONE", 1 - x, pair)],
            history=[*transaction.history, *ended, ("entity-removed", pair)],
        ),
    )


def _make_entity(world: World, state: State, i: int, process: MakeEntity) -> Iterator[Step]:
    x, pair, database = process.side, process.pair, state.databases[process.side]
    if may_start(state, process.after) and not database.restoring:
        made = database._replace(entities=database.entities | {pair})
        label = f"{NAMES[x]} makes its entity of {pair!r}"
        yield Step(label, state.after(databases={x: made}, process=(i, END), history=[("entity-made", pair)]))


# -- the settler


def _settler(world: World, state: State, i: int, process: Settler) -> Iterator[Step]:
    local = state.processes[i]
    if local != START:
        yield Step(f"{process.name} stops, starts over", state.after(process=(i, START)))
    match local:
        case ("start",):
            if not state.databases[RIGHT].restoring:
                yield from _close_right(world, state, i, process)
        case ("closed right", time, since, live_right, inc_right):
            if not state.databases[LEFT].restoring:
                right = Listing(inc_right, frozenset(live_right))
                yield _close_left(world, state, i, process, time, since, right)
        case ("compared", time, since, live_left, inc_left, live_right, inc_right):
            left, right = Listing(inc_left, frozenset(live_left)), Listing(inc_right, frozenset(live_right))
            yield from _settle(world, state, i, process, time, since, left, right)


def _close_right(world: World, state: State, i: int, process: Settler) -> Iterator[Step]:
    before = state.databases[RIGHT]
    for time in world.scenario.times:
        if before.settled >= time:
            continue
        right = world.sides[RIGHT].close(before, time)
        live = numbers(world.sides[RIGHT].live_in(right, right.settled, time))
        yield Step(
            f"{process.name}: right CLOSE({time}) -> settled={right.settled}, live {list(live)}",
            state.after(
                databases={RIGHT: right},
                process=(i, ("closed right", time, right.settled, live, right.inc)),
            ),
        )


def _close_left(world: World, state: State, i: int, process: Settler, time: int, since: int, right: Listing) -> Step:
    database = world.sides[LEFT].close(state.databases[LEFT], time)
    start = since if world.rules.care.one_window else database.settled
    left = Listing(database.inc, world.sides[LEFT].live_in(database, start, time))
    comparison = world.rules.product.compare(left, right)
    lists = (numbers(left.live), left.inc, numbers(right.live), right.inc)
    return Step(
        f"{process.name}: left CLOSE({time}, {start}) -> live {list(lists[0])}; "
        f"lone: {list(numbers(half.op for half in comparison.lone))}",
        state.after(
            databases={LEFT: database},
            process=(i, ("compared", time, since, *lists)),
            messages=[("KILL", SIDES.index(half.side), half.op, half.inc) for half in comparison.lone],
        ),
    )


def _settle(
    world: World, state: State, i: int, process: Settler, time: int, since: int, left: Listing, right: Listing
) -> Iterator[Step]:
    comparison = world.rules.product.compare(left, right)
    acks: list[tuple[Side, Op, int]] = [(SIDES[fact[1]], fact[2], fact[3]) for fact in state.facts if fact[0] == "dead"]
    if world.rules.product.all_killed(comparison, left, right, acks):
        matched = numbers(comparison.matched)
        yield Step(
            f"{process.name} sends SETTLE({since}, {time}, {list(matched)})",
            state.after(process=(i, START), messages=[("SETTLE", since, time, matched, right.inc)]),
        )
