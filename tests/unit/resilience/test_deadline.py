from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.deadline import Deadline

exact = settings(deadline=None, derandomize=True)

seconds = st.floats(min_value=0, max_value=1e5, allow_nan=False)


def test_what_is_left_shrinks_to_zero_and_never_below() -> None:
    deadline = Deadline.after(2.0, now_s=10.0)
    assert deadline.left_s(10.0) == 2.0
    assert deadline.left_s(11.5) == 0.5
    assert deadline.left_s(13.0) == 0.0


@exact
@given(at_s=seconds, now_s=seconds)
def test_expired_is_exactly_nothing_left(at_s: float, now_s: float) -> None:
    deadline = Deadline(at_s)
    assert deadline.expired(now_s) == (deadline.left_s(now_s) == 0.0)


def test_the_earlier_of_two_wins_so_a_caller_can_only_shorten() -> None:
    mine, theirs = Deadline(5.0), Deadline(7.0)
    assert mine.earlier(theirs) is mine
    assert theirs.earlier(mine) is mine


@exact
@given(left_s=seconds, sender_s=seconds, receiver_s=seconds)
def test_a_header_carries_what_is_left_between_clocks_that_share_nothing(
    left_s: float, sender_s: float, receiver_s: float
) -> None:
    header = Deadline.after(left_s, sender_s).header(sender_s)
    received = Deadline.from_header(header, receiver_s)
    assert received is not None
    # Never more than was left (float noise aside), and less by under a millisecond.
    assert left_s - 0.001 - 1e-6 <= received.left_s(receiver_s) <= left_s + 1e-6


def test_an_expired_deadline_is_sent_as_zero_and_arrives_expired() -> None:
    assert Deadline(1.0).header(5.0) == "0"
    received = Deadline.from_header("0", 40.0)
    assert received is not None and received.expired(40.0)


@pytest.mark.parametrize(
    "value", ["", " ", "-1", "1.5", "1e3", "0x10", "soon", "٣", "²", "1 2", "\u00a0250", "9" * 10, "+5"]
)
def test_what_is_not_whole_milliseconds_is_no_deadline(value: str) -> None:
    assert Deadline.from_header(value, 0.0) is None


def test_blanks_around_the_number_are_http_s_to_have() -> None:
    assert Deadline.from_header(" 250\t", 1.0) == Deadline(1.25)


def test_nan_is_refused_because_it_would_never_expire() -> None:
    with pytest.raises(ValueError, match="NaN"):
        Deadline(math.nan)


def test_repr_is_a_sentence_of_state() -> None:
    assert repr(Deadline(1.5)) == "<Deadline at 1.500 s>"
