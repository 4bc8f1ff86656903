from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.deadline import Deadline
from tally.resilience.retry import RETRYABLE, Failure, RetrySettings, full_jitter, next_delay

exact = settings(deadline=None, derandomize=True)

SETTINGS = RetrySettings(retries_max=2, backoff_base_s=0.1, backoff_cap_s=0.5, attempt_min_s=0.05)


def delay(**changes: Any) -> float | None:
    given: dict[str, Any] = {
        "attempt": 1,
        "failure": Failure.SILENT,
        "idempotent": True,
        "retry_after_s": None,
        "deadline": Deadline(100.0),
        "now_s": 0.0,
        "random": lambda: 0.5,
    }
    return next_delay(SETTINGS, **{**given, **changes})


@pytest.mark.parametrize("failure", list(Failure))
def test_only_failures_in_the_table_are_tried_again(failure: Failure) -> None:
    assert (delay(failure=failure) is not None) == (failure in RETRYABLE)


def test_an_open_breaker_is_not_retried() -> None:
    assert Failure.BREAKER_OPEN not in RETRYABLE
    assert Failure.BULKHEAD_FULL not in RETRYABLE


@pytest.mark.parametrize("failure", list(Failure))
def test_what_is_not_idempotent_is_never_tried_again(failure: Failure) -> None:
    assert delay(failure=failure, idempotent=False) is None


def test_two_retries_and_no_third() -> None:
    assert delay(attempt=1) is not None
    assert delay(attempt=2) is not None
    assert delay(attempt=3) is None


@exact
@given(attempt=st.integers(1, 2000), seed=st.integers())
def test_full_jitter_lies_between_zero_and_the_capped_back_off(attempt: int, seed: int) -> None:
    wait_s = full_jitter(SETTINGS, attempt, random.Random(seed).random)
    assert 0 <= wait_s <= min(0.5, 0.1 * 2 ** min(attempt - 1, 60))


def test_full_jitter_doubles_its_range_with_each_attempt() -> None:
    assert [full_jitter(SETTINGS, attempt, lambda: 1.0) for attempt in (1, 2, 3, 4)] == [0.1, 0.2, 0.4, 0.5]


def test_retry_after_is_waited_for_and_spread() -> None:
    assert delay(retry_after_s=3.0) == pytest.approx(3.05)
    assert delay(retry_after_s=3.0, random=lambda: 0.0) == 3.0


def test_a_negative_retry_after_is_now() -> None:
    assert delay(retry_after_s=-10.0) == pytest.approx(0.05)


def test_a_retry_after_beyond_the_deadline_ends_it() -> None:
    assert delay(retry_after_s=3.0, deadline=Deadline(2.0)) is None


@exact
@given(left_s=st.floats(0, 1), seed=st.integers(), attempt=st.integers(1, 2))
def test_the_wait_and_another_attempt_fit_the_deadline_or_there_is_none(left_s: float, seed: int, attempt: int) -> None:
    wait_s = delay(deadline=Deadline(left_s), attempt=attempt, random=random.Random(seed).random)
    assert wait_s is None or wait_s + SETTINGS.attempt_min_s <= left_s


def test_no_retries_can_be_asked_for() -> None:
    assert (
        next_delay(
            RetrySettings(retries_max=0),
            attempt=1,
            failure=Failure.UNREACHABLE,
            idempotent=True,
            retry_after_s=None,
            deadline=Deadline(10.0),
            now_s=0.0,
            random=lambda: 0.0,
        )
        is None
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [("retries_max", -1), ("backoff_base_s", 9.0), ("backoff_base_s", -1.0), ("attempt_min_s", -0.1)],
)
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        RetrySettings(**{field: value})  # type: ignore[arg-type]
