from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.window import CountWindow, SlidingSums, TimeWindow, Totals

exact = settings(deadline=None, derandomize=True)

Call = tuple[float, bool, bool]  # seconds since the one before, failed, slow
calls = st.lists(
    st.tuples(st.floats(min_value=0, max_value=25, allow_nan=False), st.booleans(), st.booleans()), max_size=60
)


def counted(seen: list[tuple[float, bool, bool]]) -> Totals:
    return Totals(len(seen), sum(failed for _, failed, _ in seen), sum(slow for _, _, slow in seen))


@exact
@given(calls=calls, size=st.integers(min_value=1, max_value=12))
def test_a_count_window_equals_the_last_calls_counted_one_by_one(calls: list[Call], size: int) -> None:
    window, seen = CountWindow(size), []
    for gap_s, failed, slow in calls:
        seen.append((gap_s, failed, slow))
        assert window.record(0.0, failed=failed, slow=slow) == counted(seen[-size:])
    assert window.totals(0.0) == counted(seen[-size:])


@exact
@given(calls=calls, window_s=st.integers(min_value=1, max_value=12), began_s=st.floats(-50, 1e6, allow_nan=False))
def test_a_time_window_equals_the_last_seconds_counted_one_by_one(
    calls: list[Call], window_s: int, began_s: float
) -> None:
    window, seen, now_s = TimeWindow(window_s), [], began_s
    for gap_s, failed, slow in calls:
        now_s += gap_s
        seen.append((now_s, failed, slow))
        first_second = math.floor(now_s) - window_s + 1
        assert window.record(now_s, failed=failed, slow=slow) == counted(
            [call for call in seen if math.floor(call[0]) >= first_second]
        )


@exact
@given(calls=calls, later_s=st.integers(min_value=0, max_value=30))
def test_a_time_window_forgets_without_new_calls_too(calls: list[Call], later_s: int) -> None:
    window, seen, now_s = TimeWindow(5), [], 0.0
    for gap_s, failed, slow in calls:
        now_s += gap_s
        seen.append((now_s, failed, slow))
        window.record(now_s, failed=failed, slow=slow)
    now_s += later_s
    kept = [call for call in seen if math.floor(call[0]) > math.floor(now_s) - 5]
    assert window.totals(now_s) == counted(kept)


def test_a_clock_that_slips_back_loses_and_repeats_nothing() -> None:
    window = TimeWindow(3)
    window.record(10.5, failed=True, slow=False)
    assert window.record(9.9, failed=False, slow=True) == Totals(2, 1, 1)
    assert window.totals(11.0) == Totals(2, 1, 1)


def test_rates_of_no_calls_are_zero_not_a_division_by_zero() -> None:
    assert Totals().failure_rate == 0.0
    assert Totals().slow_call_rate == 0.0


def test_a_long_silence_costs_no_more_than_the_window_is_long() -> None:
    sums = SlidingSums(3, counters=1)
    sums.add(0.0, 7)
    assert sums.add(1e15, 1) == (1,)


@pytest.mark.parametrize("make", [lambda: CountWindow(0), lambda: TimeWindow(0), lambda: SlidingSums(1, 0)])
def test_a_window_without_room_is_refused(make: object) -> None:
    with pytest.raises(ValueError, match="window needs"):
        make()  # type: ignore[operator]
