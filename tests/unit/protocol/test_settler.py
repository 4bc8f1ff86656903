"""What follows from two closed epochs."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.protocol.relationship import Side
from tally.protocol.settler import Comparison, Listing, LoneHalf, all_killed, compare, in_order

LEFT = Listing("l0", frozenset({"both", "at left"}))
RIGHT = Listing("r0", frozenset({"both", "at right"}))
ACK_LEFT = (Side.LEFT, "at left", "l0")
ACK_RIGHT = (Side.RIGHT, "at right", "r0")
OPS = st.frozensets(st.integers(0, 9))


def test_a_lone_half_is_killed_where_it_lives_on_the_word_of_the_side_that_lacks_it() -> None:
    comparison = compare(LEFT, RIGHT)
    assert comparison.matched == {"both"}
    assert set(comparison.lone) == {LoneHalf(Side.LEFT, "at left", "r0"), LoneHalf(Side.RIGHT, "at right", "l0")}


@settings(deadline=None)
@given(OPS, OPS)
def test_every_listed_half_is_matched_or_lone_once(left: frozenset[int], right: frozenset[int]) -> None:
    comparison = compare(Listing("l0", left), Listing("r0", right))
    assert comparison.matched == left & right
    assert {half.op for half in comparison.lone if half.side is Side.LEFT} == left - right
    assert {half.op for half in comparison.lone if half.side is Side.RIGHT} == right - left
    assert len(comparison.lone) == len(left ^ right)


def test_two_empty_epochs_need_nothing() -> None:
    comparison = compare(Listing("l0", frozenset()), Listing("r0", frozenset()))
    assert comparison == Comparison((), frozenset())
    assert all_killed(comparison, LEFT, RIGHT, [])


def test_every_lone_half_is_waited_for() -> None:
    comparison = compare(LEFT, RIGHT)
    for n in range(3):
        for acks in combinations([ACK_LEFT, ACK_RIGHT], n):
            assert all_killed(comparison, LEFT, RIGHT, acks) == (n == 2)


@pytest.mark.parametrize(
    "ack",
    [
        (Side.LEFT, "at left", "l1"),
        (Side.LEFT, "at left", "r0"),
        (Side.RIGHT, "at left", "r0"),
        (Side.RIGHT, "at left", "l0"),
        (Side.LEFT, "both", "l0"),
    ],
    ids=[
        "another incarnation",
        "the peer's incarnation",
        "the other side",
        "the other side as this",
        "another operation",
    ],
)
def test_an_answer_counts_from_the_very_side_and_incarnation_that_was_listed(ack: tuple[Side, str, str]) -> None:
    assert not all_killed(compare(LEFT, RIGHT), LEFT, RIGHT, [ack, ACK_RIGHT])


@pytest.mark.parametrize(
    ("settled", "left_closed", "right_closed", "ordered"),
    [(0, 0, 0, True), (1, 2, 3, True), (2, 2, 2, True), (3, 2, 3, False), (1, 3, 2, False), (3, 2, 1, False)],
)
def test_the_marks_follow_one_another(settled: int, left_closed: int, right_closed: int, ordered: bool) -> None:
    assert in_order(left_closed, right_closed, settled) is ordered
