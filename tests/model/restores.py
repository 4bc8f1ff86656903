"""One database is lost and restored from a backup, once; then it rejoins its peer under a new incarnation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from .world import NAMES, RESTORED, State, Step, numbers

if TYPE_CHECKING:
    from .explorer import World


def restores(world: World, state: State) -> Iterator[Step]:
    """Backup at any moment, restore at any later one, and then the rejoin."""
    x = world.scenario.restored
    if x is None:
        return
    if state.backup is None and not state.restored:
        yield Step(f"backup of {NAMES[x]}", state._replace(backup=state.databases[x]))
    elif state.backup is not None:
        yield _restore(world, state, x)
    if state.databases[x].restoring:
        yield from _rejoin(world, state, x)
        yield from _reconcile(world, state, x)


def latest_rejoin(state: State) -> int:
    """The incarnation of the latest REJOIN that was asked or answered; 0 if there was none."""
    asked = [message[2] for message in state.messages if message[0] == "REJOIN ASKED"]
    return max(asked + [message[1] for message in state.messages if message[0] == "REJOIN"], default=0)


def answer_rejoin(world: World, state: State, y: int, inc: int) -> Iterator[Step]:
    """The intact side believes its peer to be ``inc`` from now on, and tells all that it has live."""
    peer = world.sides[y].rejoined(state.databases[y], inc)
    if peer is None:
        return
    live = numbers(peer.live)
    # While nobody is restoring, nobody has a use for the answer.
    answer = [("REJOIN", inc, live, peer.closed, peer.inc)] if state.restoring else []
    yield Step(
        f"{NAMES[y]} REJOIN(incarnation {inc}) -> live {list(live)}, closed={peer.closed}",
        state.after(databases={y: peer}, messages=answer),
    )


def _restore(world: World, state: State, x: int) -> Step:
    assert state.backup is not None
    database = state.backup._replace(restoring=world.rules.care.restore_noticed)
    lost = state.databases[x].entities - database.entities
    ended = [("ended", op) for op in sorted(world.ledger(state).started) if world.scenario.pairs[op] in lost]
    restored = state.after(databases={x: database}, history=[RESTORED, *ended])
    return Step(f"RESTORE of {NAMES[x]} from its backup", restored._replace(backup=None))


def _rejoin(world: World, state: State, x: int) -> Iterator[Step]:
    """The restored side asks; it may lose the answer, and ask again as somebody new."""
    y, inc = 1 - x, latest_rejoin(state) + 1
    if inc > world.scenario.rejoins_max:
        return
    if not world.rules.care.late_rejoins:
        yield from answer_rejoin(world, state, y, inc)
    else:
        label = f"{NAMES[x]} asks {NAMES[y]} for REJOIN(incarnation {inc})"
        yield Step(label, state.after(messages=[("REJOIN ASKED", y, inc)]))


def _reconcile(world: World, state: State, x: int) -> Iterator[Step]:
    latest = latest_rejoin(state)
    for message in sorted(state.messages):
        match message:
            case ("REJOIN", inc, live, closed, peer_inc) if inc == latest or not world.rules.care.latest_rejoin:
                transaction = world.sides[x].reconciled(state.databases[x], inc, live, closed, peer_inc)
                yield Step(
                    f"{NAMES[x]} applies the answer to REJOIN(incarnation {inc}): live {list(live)}",
                    state.after(databases={x: transaction.database}, history=transaction.history),
                )
