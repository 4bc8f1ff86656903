"""What a gateway concludes: its table against a literal one, and all evidence against what must never be said."""

from __future__ import annotations

from itertools import product

import pytest

from tally.protocol.gateway import (
    SILENT,
    UNSENT,
    Already,
    Created,
    Dead,
    Evidence,
    Kill,
    KillUnsent,
    RecordAgain,
    Recorded,
    Refused,
    Resolve,
    Send,
    Unknown,
    Verdict,
    cancel,
    create,
    worth_another_attempt,
)
from tally.protocol.participant import Reason
from tally.protocol.relationship import Side

# Incarnations: the left side is l0 and later l1, the right one r0 and later r1.
L, R = Recorded("l0", "r0"), Recorded("r0", "l0")
L_LATER, R_LATER = Recorded("l1", "r0"), Recorded("r0", "l1")
L_DEAD, R_DEAD = Dead("l0", "r0", Reason.FULL), Dead("r0", "l0", Reason.NOT_FOUND)


def taken(inc: str, peer_inc: str, other: str | None = "other") -> Dead:
    return Dead(inc, peer_inc, Reason.TAKEN, other)


TABLE: list[tuple[Evidence, Evidence, Verdict | Send, Verdict | Send]] = [
    # left, right, before the deadline, at the deadline
    (L, R, Created(), Created()),
    (L_LATER, R_LATER, Created(), Created()),
    (L, R_LATER, RecordAgain(), Unknown()),
    (L_LATER, R, RecordAgain(), Unknown()),
    (taken("l0", "r0"), taken("r0", "l0"), Already("other"), Already("other")),
    (
        taken("l0", "r0"),
        taken("r0", "l0", "another"),
        Refused(Reason.TAKEN, Reason.TAKEN),
        Refused(Reason.TAKEN, Reason.TAKEN),
    ),
    (taken("l0", "r0"), taken("r0", "l1"), Refused(Reason.TAKEN, Reason.TAKEN), Refused(Reason.TAKEN, Reason.TAKEN)),
    (taken("l0", "r1"), taken("r0", "l0"), Refused(Reason.TAKEN, Reason.TAKEN), Refused(Reason.TAKEN, Reason.TAKEN)),
    (taken("l0", "r0"), R_DEAD, Refused(Reason.TAKEN, Reason.NOT_FOUND), Refused(Reason.TAKEN, Reason.NOT_FOUND)),
    (L_DEAD, R_DEAD, Refused(Reason.FULL, Reason.NOT_FOUND), Refused(Reason.FULL, Reason.NOT_FOUND)),
    (L_DEAD, R, Kill(Side.RIGHT, "l0"), Refused(Reason.FULL, None)),
    (L, R_DEAD, Kill(Side.LEFT, "r0"), Refused(None, Reason.NOT_FOUND)),
    (L_DEAD, SILENT, Kill(Side.RIGHT, "l0"), Refused(Reason.FULL, None)),
    (SILENT, R_DEAD, Kill(Side.LEFT, "r0"), Refused(None, Reason.NOT_FOUND)),
    (L_DEAD, UNSENT, Refused(Reason.FULL, UNSENT), Refused(Reason.FULL, UNSENT)),
    (UNSENT, R_DEAD, Refused(UNSENT, Reason.NOT_FOUND), Refused(UNSENT, Reason.NOT_FOUND)),
    (UNSENT, UNSENT, Refused(UNSENT, UNSENT), Refused(UNSENT, UNSENT)),
    (UNSENT, R, KillUnsent(Side.RIGHT), Unknown()),
    (L, UNSENT, KillUnsent(Side.LEFT), Unknown()),
    (UNSENT, SILENT, Resolve((Side.RIGHT,)), Unknown()),
    (SILENT, UNSENT, Resolve((Side.LEFT,)), Unknown()),
    (L, SILENT, Resolve((Side.RIGHT,)), Unknown()),
    (SILENT, R, Resolve((Side.LEFT,)), Unknown()),
    (SILENT, SILENT, Resolve((Side.LEFT, Side.RIGHT)), Unknown()),
]

#: Every kind of evidence of one side, in every pair of incarnations.
INCS = [("l0", "r0"), ("l0", "r1"), ("l1", "r0"), ("l1", "r1")]
REASONS: list[tuple[Reason | None, str | None]] = [
    (None, None),
    *((reason, None) for reason in Reason),
    (Reason.TAKEN, "other"),
    (Reason.TAKEN, "another"),
]
LEFTS: list[Evidence] = [
    SILENT,
    UNSENT,
    *(Recorded(left, right) for left, right in INCS),
    *(Dead(left, right, *reason) for left, right in INCS for reason in REASONS),
]
RIGHTS: list[Evidence] = [
    SILENT,
    UNSENT,
    *(Recorded(right, left) for left, right in INCS),
    *(Dead(right, left, *reason) for left, right in INCS for reason in REASONS),
]
PAIRS = list(product(LEFTS, RIGHTS, [False, True]))


@pytest.mark.parametrize(("left", "right", "before", "at_deadline"), TABLE)
def test_each_line_of_the_table(left: Evidence, right: Evidence, before: object, at_deadline: object) -> None:
    assert create(left, right, expired=False) == before
    assert create(left, right, expired=True) == at_deadline


def agree(left: Recorded | Dead, right: Recorded | Dead) -> bool:
    return left.inc == right.peer_inc and right.inc == left.peer_inc


def test_created_is_said_of_two_matching_acknowledgements_and_of_nothing_else() -> None:
    for left, right, expired in PAIRS:
        both = isinstance(left, Recorded) and isinstance(right, Recorded) and agree(left, right)
        assert (create(left, right, expired=expired) == Created()) == both, (left, right)


def test_already_is_said_when_both_sides_name_one_operation_and_of_nothing_else() -> None:
    for left, right, expired in PAIRS:
        named = (
            isinstance(left, Dead)
            and isinstance(right, Dead)
            and (left.why, right.why) == (Reason.TAKEN, Reason.TAKEN)
            and left.other == right.other
            and left.other is not None
            and agree(left, right)
        )
        assert isinstance(create(left, right, expired=expired), Already) == named, (left, right)


def test_refused_is_never_said_without_a_proof_or_two_sides_that_were_sent_nothing() -> None:
    for left, right, expired in PAIRS:
        if isinstance(create(left, right, expired=expired), Refused):
            proofs = [side for side in (left, right) if isinstance(side, Dead)]
            assert proofs or (left is UNSENT and right is UNSENT)
            if not expired:
                assert all(isinstance(side, Dead) or side is UNSENT for side in (left, right))


def test_a_side_that_recorded_is_never_left_to_a_refusal_before_the_deadline() -> None:
    for left, right, _ in PAIRS:
        if isinstance(left, Recorded) or isinstance(right, Recorded):
            assert not isinstance(create(left, right, expired=False), Refused)


def test_a_kill_names_the_side_that_is_not_dead_and_the_incarnation_that_is() -> None:
    for left, right, expired in PAIRS:
        match create(left, right, expired=expired):
            case Kill(Side.RIGHT, inc):
                assert isinstance(left, Dead) and inc == left.inc and not isinstance(right, Dead)
            case Kill(Side.LEFT, inc):
                assert isinstance(right, Dead) and inc == right.inc and not isinstance(left, Dead)
            case KillUnsent(side):
                assert (left, right)[side is Side.LEFT] is UNSENT
                assert isinstance((left, right)[side is Side.RIGHT], Recorded)


def test_who_is_asked_is_silent_and_who_was_sent_nothing_is_never_asked() -> None:
    for left, right, expired in PAIRS:
        match create(left, right, expired=expired):
            case Resolve(sides):
                assert sides
                assert all((left if side is Side.LEFT else right) is SILENT for side in sides)


def test_nothing_is_sent_after_the_deadline() -> None:
    for left, right, _ in PAIRS:
        assert isinstance(create(left, right, expired=True), Verdict)


def test_the_two_sides_are_treated_alike() -> None:
    """Renaming left to right renames the verdict, so one side can't have a rule that the other lacks."""

    def mirrored(found: object) -> object:
        match found:
            case Kill(side, inc):
                return Kill(side.peer, inc)
            case KillUnsent(side):
                return KillUnsent(side.peer)
            case Resolve(sides):
                return Resolve(tuple(sorted((side.peer for side in sides), key=list(Side).index)))
            case Refused(left, right):
                return Refused(right, left)
            case _:
                return found

    for left, right, expired in PAIRS:
        assert create(right, left, expired=expired) == mirrored(create(left, right, expired=expired))


# -- cancel


@pytest.mark.parametrize(
    ("left", "right", "before", "at_deadline"),
    [
        (L_DEAD, R_DEAD, Refused(Reason.FULL, Reason.NOT_FOUND), Refused(Reason.FULL, Reason.NOT_FOUND)),
        (L_DEAD, SILENT, None, Refused(Reason.FULL, None)),
        (SILENT, R_DEAD, None, Refused(None, Reason.NOT_FOUND)),
        (L_DEAD, UNSENT, None, Refused(Reason.FULL, UNSENT)),
        (SILENT, SILENT, None, Unknown()),
        (UNSENT, UNSENT, None, Unknown()),
        (L, R, None, Unknown()),
    ],
)
def test_a_cancel_is_done_at_two_acknowledgements_and_at_its_deadline_at_one(
    left: Evidence, right: Evidence, before: object, at_deadline: object
) -> None:
    assert cancel(left, right, expired=False) == before
    assert cancel(left, right, expired=True) == at_deadline


# -- a second attempt


@pytest.mark.parametrize(
    ("left", "right", "worth"),
    [
        (Reason.TAKEN, None, True),
        (Reason.TAKEN, Reason.KILLED, True),
        (Reason.TOO_LATE, Reason.TOO_LATE, True),
        (Reason.RESOLVED, None, True),
        (Reason.NOT_FOUND, Reason.KILLED, False),
        (Reason.KILLED, Reason.FULL, False),
        (Reason.TOO_EARLY, None, False),
        (Reason.DELETED, Reason.KILLED, False),
        (UNSENT, Reason.KILLED, False),
        (UNSENT, UNSENT, False),
        (None, None, False),
    ],
)
def test_another_attempt_is_worth_it_if_no_reason_lasts(left: Reason | None, right: Reason | None, worth: bool) -> None:
    assert worth_another_attempt(Refused(left, right)) is worth
    assert worth_another_attempt(Refused(right, left)) is worth
