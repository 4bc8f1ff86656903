from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.budget import BudgetSettings, RetryBudget

exact = settings(deadline=None, derandomize=True)

WINDOW_S = 10


def test_ten_calls_earn_one_retry() -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.1, floor_per_s=0.0))
    for _ in range(9):
        budget.called(0.0)
    assert not budget.try_spend(0.0)
    budget.called(0.0)
    assert budget.try_spend(0.0)
    assert not budget.try_spend(0.0)


def test_the_floor_lets_a_rare_caller_retry() -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.1, floor_per_s=0.2, window_s=10))
    budget.called(0.0)
    assert [budget.try_spend(0.0) for _ in range(3)] == [True, True, False]
    assert budget.try_spend(10.0), "and again a window later"


def test_a_refused_retry_takes_nothing() -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.1, floor_per_s=0.0))
    budget.called(0.0)
    assert not budget.try_spend(0.0)
    assert budget.ratio(0.0) == 0.0


def test_what_calls_earned_expires_with_them() -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.1, floor_per_s=0.0, window_s=10))
    for _ in range(100):
        budget.called(0.0)
    assert budget.balance(9.9) == pytest.approx(10)
    assert budget.balance(10.0) == pytest.approx(0)


def test_the_ratio_is_retries_per_call() -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.5, floor_per_s=0.0))
    assert budget.ratio(0.0) == 0.0
    for _ in range(4):
        budget.called(0.0)
    budget.try_spend(0.0)
    assert budget.ratio(0.0) == 0.25


events = st.lists(
    st.tuples(st.floats(0, 8, allow_nan=False), st.integers(0, 40), st.integers(0, 40)), min_size=1, max_size=40
)


@exact
@given(events=events, ratio=st.sampled_from([0.0, 0.1, 0.2, 1.0]), floor_per_s=st.sampled_from([0.0, 0.2, 1.0]))
def test_retries_never_exceed_the_share_of_calls_plus_one_floor_per_window(
    events: list[tuple[float, int, int]], ratio: float, floor_per_s: float
) -> None:
    """However calls and wishes to retry come, and over whatever time."""
    budget = RetryBudget(BudgetSettings(ratio=ratio, floor_per_s=floor_per_s, window_s=WINDOW_S))
    now_s, calls, retries = 0.0, 0, 0
    for gap_s, called, wished in events:
        now_s += gap_s
        for _ in range(called):
            budget.called(now_s)
        calls += called
        retries += sum(budget.try_spend(now_s) for _ in range(wished))
        windows = math.ceil((math.floor(now_s) + 1) / WINDOW_S)
        assert retries <= ratio * calls + floor_per_s * WINDOW_S * windows + 1e-6


@exact
@given(events=events)
def test_the_budget_equals_a_count_of_its_window_one_by_one(events: list[tuple[float, int, int]]) -> None:
    budget = RetryBudget(BudgetSettings(ratio=0.1, floor_per_s=0.3, window_s=WINDOW_S))
    now_s = 0.0
    called_at: list[float] = []
    retried_at: list[float] = []
    for gap_s, called, wished in events:
        now_s += gap_s
        for _ in range(called):
            budget.called(now_s)
            called_at.append(now_s)
        for _ in range(wished):
            first = math.floor(now_s) - WINDOW_S + 1
            calls = sum(math.floor(at) >= first for at in called_at)
            retries = sum(math.floor(at) >= first for at in retried_at)
            allowed = retries + 1 <= 0.1 * calls + 0.3 * WINDOW_S + 1e-9
            assert budget.try_spend(now_s) == allowed
            if allowed:
                retried_at.append(now_s)


@pytest.mark.parametrize(("field", "value"), [("ratio", 1.5), ("ratio", -0.1), ("floor_per_s", -1.0), ("window_s", 0)])
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        BudgetSettings(**{field: value})  # type: ignore[arg-type]


def test_repr_is_a_sentence_of_state() -> None:
    assert repr(RetryBudget(BudgetSettings(floor_per_s=0.2))) == "<RetryBudget 10% of calls + 0.2/s over 10 s>"
