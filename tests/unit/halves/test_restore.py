"""What says that a database is an old copy of itself, and what does not."""

from uuid import UUID

import pytest

from tally.halves.restore import went_back
from tally.messaging.catchup import later_than
from tally.protocol import operation
from tally.protocol.messages import Marked
from tally.protocol.relationship import Side

LEFT, RIGHT, LATER = (operation.make(1000 + n, n) for n in range(3))


def mark(
    side: Side, *, inc: UUID | None = None, peer_inc: UUID | None = None, closed: int = 100, settled: int = 0
) -> Marked:
    own, other = (LEFT, RIGHT) if side is Side.LEFT else (RIGHT, LEFT)
    return Marked(inc or own, peer_inc or other, closed, settled, False)


def test_marks_in_their_order_say_nothing() -> None:
    left, right = mark(Side.LEFT, closed=90), mark(Side.RIGHT, closed=100, settled=90)
    assert went_back(Side.LEFT, left, right) is None
    assert went_back(Side.RIGHT, right, left) is None


@pytest.mark.parametrize(
    "side, own, peer, said",
    [
        (Side.LEFT, mark(Side.LEFT, closed=89), mark(Side.RIGHT, settled=90), "settled up to 90"),
        (Side.RIGHT, mark(Side.RIGHT, closed=89), mark(Side.LEFT, closed=90), "closed up to 90"),
        (Side.LEFT, mark(Side.LEFT), mark(Side.RIGHT, peer_inc=LATER), "later incarnation"),
        (Side.RIGHT, mark(Side.RIGHT), mark(Side.LEFT, inc=LATER), "later than the one known here"),
    ],
)
def test_who_is_behind_was_restored(side: Side, own: Marked, peer: Marked, said: str) -> None:
    assert said in str(went_back(side, own, peer))


@pytest.mark.parametrize(
    "side, own, peer",
    [
        (Side.LEFT, mark(Side.LEFT, inc=LATER), mark(Side.RIGHT)),
        (Side.RIGHT, mark(Side.RIGHT, peer_inc=LATER), mark(Side.LEFT)),
        (Side.RIGHT, mark(Side.RIGHT, closed=100), mark(Side.LEFT, closed=10)),
    ],
)
def test_if_the_other_side_is_behind_it_is_the_other_side_s_business(side: Side, own: Marked, peer: Marked) -> None:
    assert went_back(side, own, peer) is None


def test_a_new_incarnation_is_later_than_all_others_even_if_the_clock_was_set_back() -> None:
    future = operation.make(2**47, 5)
    assert later_than(future, None) > future
    assert later_than(None, LEFT) > LEFT
