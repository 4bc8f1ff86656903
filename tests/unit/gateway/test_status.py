"""What the halves' words about an operation come to."""

import pytest

from tally.gateway.participants import Standing
from tally.gateway.status import REMEMBERED_MS, State, state
from tally.halves.store import FIRST_INC
from tally.protocol import messages as wire
from tally.protocol.operation import make
from tally.protocol.participant import EARLY_MAX_MS, Reason, Row
from tally.protocol.relationship import Side

AT_MS = 1_800_000_000_000
OP = make(AT_MS, 1)
LIVE = wire.StatusItem(Row.LIVE)
ABSENT = wire.StatusItem(Row.CLOSED)
KILLED = wire.StatusItem(Row.VOID, Reason.KILLED)
LOST = wire.StatusItem(Row.CANCELLED, Reason.LOST)
REFUSING = wire.StatusItem(Row.VOID, Reason.NOT_FOUND)
CANCELLED = wire.StatusItem(Row.CANCELLED, Reason.CANCELLED)


def told(left: wire.StatusItem, right: wire.StatusItem, *, age_ms: int = 1000, restored_ms: int | None = None) -> State:
    """The state, where the left side was restored at a moment or never."""
    inc = FIRST_INC[Side.LEFT] if restored_ms is None else make(restored_ms, 2)
    standing = {Side.LEFT: Standing(left, inc), Side.RIGHT: Standing(right, FIRST_INC[Side.RIGHT])}
    return state(OP, standing, AT_MS + age_ms)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (LIVE, LIVE, State.DONE),
        (REFUSING, KILLED, State.REFUSED),
        (ABSENT, KILLED, State.REFUSED),
        (CANCELLED, KILLED, State.CANCELLED),
        (CANCELLED, LIVE, State.CANCELLED),
    ],
)
def test_young_operations_have_all_their_rows(left: wire.StatusItem, right: wire.StatusItem, expected: State) -> None:
    assert told(left, right) is expected


def test_what_the_rows_no_longer_tell_is_gone_after_a_while() -> None:
    assert told(ABSENT, KILLED, age_ms=REMEMBERED_MS) is State.GONE
    assert told(ABSENT, REFUSING, age_ms=REMEMBERED_MS) is State.REFUSED


@pytest.mark.parametrize("left", [ABSENT, KILLED, REFUSING])
def test_a_side_that_was_restored_after_it_does_not_prove_that_it_never_was(left: wire.StatusItem) -> None:
    """Found by chaos: created, its author deleted, the author's database restored; its address said "refused"."""
    assert told(left, KILLED, restored_ms=AT_MS + 500) is State.GONE
    assert told(left, KILLED, restored_ms=AT_MS - EARLY_MAX_MS) is State.GONE  # a gateway's clock may be ahead
    assert told(left, KILLED, restored_ms=AT_MS - EARLY_MAX_MS - 1) is State.REFUSED


@pytest.mark.parametrize("right", [LIVE, ABSENT, KILLED, LOST])
def test_what_a_restore_lost_was_not_refused(right: wire.StatusItem) -> None:
    assert told(LOST, right, restored_ms=AT_MS + 500) is State.GONE


def test_the_word_of_the_side_that_was_not_restored_still_counts() -> None:
    assert told(ABSENT, REFUSING, restored_ms=AT_MS + 500) is State.REFUSED
    assert told(ABSENT, CANCELLED, restored_ms=AT_MS + 500) is State.CANCELLED


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("word", [ABSENT, KILLED, LOST])
def test_what_one_side_does_not_know_any_more_the_silent_one_may_know(side: Side, word: wire.StatusItem) -> None:
    """It may have been cancelled there, and another attempt of deferred work would undo that."""
    alone = {side: Standing(word, FIRST_INC[side])}
    assert state(OP, alone, AT_MS + REMEMBERED_MS) is State.UNKNOWN
    ended = {**alone, side.peer: Standing(CANCELLED, FIRST_INC[side.peer])}
    assert state(OP, ended, AT_MS + REMEMBERED_MS) is State.CANCELLED


@pytest.mark.parametrize("side", Side)
def test_the_word_of_one_side_is_enough_where_it_proves_that_it_never_was(side: Side) -> None:
    assert state(OP, {side: Standing(REFUSING, FIRST_INC[side])}, AT_MS + REMEMBERED_MS) is State.REFUSED
    assert state(OP, {side: Standing(ABSENT, FIRST_INC[side])}, AT_MS + 1000) is State.REFUSED
