"""What follows from two closed epochs: which halves are lone, and what to confirm.

Assumes that both sides closed the same time, the right one first, and listed from the same mark: the
``settled`` of the right side, as it was when the right side closed.

A round: right CLOSE(T) -> its ``settled`` S and list; left CLOSE(T, S) -> list; :func:`compare`; KILL every
lone half, naming the incarnation of the side it is missing from, and wait for every dead-answer from the
very incarnations that were listed; SETTLE(S, T, matched). A settler may stop anywhere and any number may
run: SETTLE is a compare-and-set, and every other message is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tally.protocol.participant import Id
from tally.protocol.relationship import Side


@dataclass(frozen=True, slots=True)
class Listing:
    """What a side held live in (S, T] when it had closed T, as incarnation ``inc``."""

    inc: Id
    live: frozenset[Id]


@dataclass(frozen=True, slots=True)
class LoneHalf:
    """A half whose peer is dead for it: KILL(op, inc) at ``side``, ``inc`` being the peer's incarnation."""

    side: Side
    op: Id
    inc: Id


@dataclass(frozen=True, slots=True)
class Comparison:
    lone: tuple[LoneHalf, ...]
    matched: frozenset[Id]


def compare(left: Listing, right: Listing) -> Comparison:
    """Tell lone halves from whole ones. Absent and closed is dead, so the other side's list is a proof."""
    lone = [LoneHalf(Side.RIGHT, op, left.inc) for op in right.live - left.live]
    lone += [LoneHalf(Side.LEFT, op, right.inc) for op in left.live - right.live]
    return Comparison(tuple(lone), left.live & right.live)


def all_killed(comparison: Comparison, left: Listing, right: Listing, acks: Iterable[tuple[Side, Id, Id]]) -> bool:
    """Whether every lone half was answered dead (side, op, inc) by the incarnation that was listed.

    Only then may the window be settled: a lone half left behind the mark would stay for ever.
    """
    listed = {Side.LEFT: left.inc, Side.RIGHT: right.inc}
    dead = {(side, op) for side, op, inc in acks if inc == listed[side]}
    return all((half.side, half.op) in dead for half in comparison.lone)


def in_order(left_closed: int, right_closed: int, settled: int) -> bool:
    """The invariant of the marks: right.settled <= left.closed <= right.closed (short of a restore)."""
    return settled <= left_closed <= right_closed
