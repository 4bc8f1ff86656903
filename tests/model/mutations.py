"""Changes to the product's functions, made from outside: what :mod:`.ablations` puts in their place.

Each calls the product's function after changing what goes in, or before changing what comes out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msgspec import structs

from tally.protocol import gateway, participant, settler
from tally.protocol.gateway import Dead, Recorded
from tally.protocol.participant import TABLE, Checks, Decision, Mark, Message, Reason, Row, Snapshot, Status, Table
from tally.protocol.relationship import Side

from .rules import Decide
from .world import NO_PROOF

# -- what a participant does


def table(cells: Table) -> Decide:
    """Some cells of the participant's table are others."""
    changed = {**TABLE, **cells}

    def decide(*args: Any, **named: Any) -> Decision:
        return participant.decide(*args, **named, table=changed)

    return decide


def record_in_closed_epochs(message: Message, row: Row, mark: Mark, time: int, **named: Any) -> Decision:
    """RECORD takes a closed epoch for an open one."""
    if message is Message.RECORD and row is Row.CLOSED:
        row = Row.OPEN
    return participant.decide(message, row, mark, time, **named)


def unchecked(**found: Any) -> Decide:
    """RECORD does not look at something: ``found`` is what it finds instead."""

    def decide(*args: Any, checks: Checks | None = None, **named: Any) -> Decision:
        return participant.decide(*args, checks=checks and replace(checks, **found), **named)

    return decide


def kill_on_any_proof(message: Message, row: Row, mark: Mark, time: int, *, inc: Any = None, **named: Any) -> Decision:
    """KILL is obeyed whichever incarnation its proof is from."""
    return participant.decide(message, row, mark, time, inc=mark.peer_inc if message is Message.KILL else inc, **named)


def kill_without_proof(message: Message, row: Row, mark: Mark, time: int, *, inc: Any = None, **named: Any) -> Decision:
    """KILL is obeyed without any proof."""
    return participant.decide(message, row, mark, time, inc=mark.peer_inc if inc == NO_PROOF else inc, **named)


def kill_when_silent(left: Any, right: Any, *, expired: bool) -> Any:
    """Where the gateway should ask what became of the operation, it sends a KILL."""
    match gateway.create(left, right, expired=expired):
        case gateway.Resolve(sides):
            return gateway.Kill(sides[0], NO_PROOF)
        case verdict:
            return verdict


def end_without_event(*args: Any, **named: Any) -> Decision:
    return replace(participant.decide(*args, **named), cancelled=False)


def delete_without_event(time: int, mark: Mark) -> Decision:
    return replace(participant.delete_entity(time, mark), cancelled=False)


def delete_to_void(time: int, mark: Mark) -> Decision:
    return replace(participant.delete_entity(time, mark), write=Status.VOID)


# -- what a gateway concludes


def created_on_one_ack(left: Any, right: Any, *, expired: bool) -> Any:
    if isinstance(left, Recorded) or isinstance(right, Recorded):
        return gateway.Created()
    return gateway.create(left, right, expired=expired)


def already_on_one_word(left: Any, right: Any, *, expired: bool) -> Any:
    for side in (left, right):
        if isinstance(side, Dead) and side.why is Reason.TAKEN:
            return gateway.Already(side.other)
    return gateway.create(left, right, expired=expired)


def created_on_any_incarnations(left: Any, right: Any, *, expired: bool) -> Any:
    """Acknowledgements of different incarnations pass for one."""
    known = (Recorded, Dead)
    if isinstance(left, known) and isinstance(right, known):
        left, right = structs.replace(left, inc=0, peer_inc=0), structs.replace(right, inc=0, peer_inc=0)
    return gateway.create(left, right, expired=expired)


# -- what a settler does


def list_without_closing(mark: Mark, time: int) -> Mark:
    return mark


def wait_for_no_kill(*_: Any) -> bool:
    return True


def wait_for_any_incarnation(
    comparison: settler.Comparison, left: settler.Listing, right: settler.Listing, acks: Any
) -> bool:
    """Answers to KILL count whichever incarnation gave them."""
    inc = {Side.LEFT: left.inc, Side.RIGHT: right.inc}
    return settler.all_killed(comparison, left, right, [(side, op, inc[side]) for side, op, _ in acks])


def settle_from_any_mark(mark: Mark, since: int, time: int, matched: Any, inc: Any, live: Any) -> Any:
    return participant.settle(mark, mark.settled, time, matched, inc, live)


def settle_what_was_listed(mark: Mark, since: int, time: int, matched: Any, inc: Any, live: Any) -> Any:
    return participant.settle(mark, since, time, matched, inc, matched)


def settle_any_incarnation(mark: Mark, since: int, time: int, matched: Any, inc: Any, live: Any) -> Any:
    return participant.settle(mark, since, time, matched, mark.inc, live)


# -- what a restored side does


def copy_settled_only(mark: Mark, rows: Any, times: Any, lost: Any, snapshot: Snapshot, inc: Any) -> Any:
    some = {op: time for op, time in snapshot.live.items() if time <= mark.settled or rows.get(op) is Status.LIVE}
    return participant.reconcile(mark, rows, times, lost, replace(snapshot, live=some), inc)


def forget_own_dead(mark: Mark, rows: Any, times: Any, lost: Any, snapshot: Snapshot, inc: Any) -> Any:
    kept = {op: status for op, status in rows.items() if status is Status.LIVE or op not in snapshot.live}
    return participant.reconcile(mark, kept, times, lost, snapshot, inc)


def rejoin_any(mark: Mark, inc: Any) -> Mark:
    """Whoever asks to REJOIN is the peer from now on."""
    return replace(mark, peer_inc=inc)


def rejoin_again(mark: Mark, inc: Any) -> Mark | None:
    """Who has rejoined may do so again, and gets what is live by then."""
    return replace(mark, peer_inc=inc) if inc >= mark.peer_inc else None
