"""The breaker's own rules: what resilience4j does not have, what operators do, what is shown."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from tally.resilience.breaker import (
    Breaker,
    BreakerSettings,
    Cause,
    Mode,
    Permit,
    Reason,
    Rejected,
    State,
)


class Heard:
    """A listener that remembers, and reads the breaker while it is told."""

    def __init__(self) -> None:
        self.moves: list[tuple[State, State, Reason]] = []
        self.would_open: list[Reason] = []
        self.breaker: Breaker | None = None

    def on_transition(self, old: State, new: State, cause: Cause) -> None:
        self.moves.append((old, new, cause.reason))
        if self.breaker is not None:
            assert self.breaker.state is self.moves[-1][1]
            self.breaker.snapshot(0.0)

    def on_would_open(self, cause: Cause) -> None:
        self.would_open.append(cause.reason)


def a_breaker(heard: Heard | None = None, *, jitter: float = 0.0, **settings: Any) -> Breaker:
    defaults: dict[str, Any] = {"consecutive_failures": 3, "minimum_calls": 10, "open_s": 5.0, "open_jitter": 0.0}
    listener = heard or Heard()
    breaker = Breaker(BreakerSettings(**{**defaults, **settings}), random=lambda: jitter, listeners=(listener,))
    listener.breaker = breaker
    return breaker


def permitted(breaker: Breaker, now_s: float = 0.0) -> Permit:
    permit = breaker.acquire(now_s)
    assert isinstance(permit, Permit), permit
    return permit


def fail(breaker: Breaker, now_s: float = 0.0, *, times: int = 1, duration_s: float = 0.01) -> None:
    for _ in range(times):
        breaker.on_failure(permitted(breaker, now_s), "silent", duration_s, now_s)


def succeed(breaker: Breaker, now_s: float = 0.0, *, times: int = 1, duration_s: float = 0.01) -> None:
    for _ in range(times):
        breaker.on_success(permitted(breaker, now_s), duration_s, now_s)


def refused(breaker: Breaker, now_s: float) -> Rejected:
    answer = breaker.acquire(now_s)
    assert isinstance(answer, Rejected), answer
    return answer


# ── consecutive failures ───────────────────────────────────────────────────────────────────────


def test_consecutive_failures_open_it_long_before_a_rate_can() -> None:
    heard = Heard()
    breaker = a_breaker(heard)
    fail(breaker, times=2)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert heard.moves == [(State.CLOSED, State.OPEN, Reason.CONSECUTIVE_FAILURES)]


def test_a_success_between_breaks_the_row() -> None:
    breaker = a_breaker(minimum_calls=100)
    for _ in range(20):
        fail(breaker, times=2)
        succeed(breaker)
    assert breaker.state is State.CLOSED


def test_zero_turns_the_consecutive_rule_off() -> None:
    breaker = a_breaker(consecutive_failures=0, minimum_calls=100)
    fail(breaker, times=99)
    assert breaker.state is State.CLOSED
    fail(breaker)
    assert breaker.state is State.OPEN
    assert breaker.snapshot(0.0).cause == "100 of 100 calls failed"


# ── open time ──────────────────────────────────────────────────────────────────────────────────


def test_who_comes_back_after_retry_after_gets_the_probe() -> None:
    breaker = a_breaker()
    fail(breaker, 10.0, times=3)
    rejected = refused(breaker, 11.0)
    assert rejected == Rejected(4.0, State.OPEN)
    assert isinstance(breaker.acquire(11.0 + rejected.retry_after_s), Permit)


def test_jitter_only_lengthens_the_open_time() -> None:
    source = random.Random(7)
    waits = []
    for _ in range(200):
        breaker = Breaker(BreakerSettings(consecutive_failures=1, open_s=5.0, open_jitter=0.2), random=source.random)
        fail(breaker)
        waits.append(refused(breaker, 0.0).retry_after_s)
    assert 5.0 <= min(waits) < 5.1
    assert 5.9 < max(waits) <= 6.0


def test_each_failed_probing_lengthens_the_open_time_up_to_its_bound_and_a_recovery_resets_it() -> None:
    breaker = a_breaker(open_growth=2.0, open_max_s=30.0)
    now_s, waits = 0.0, []
    fail(breaker, now_s, times=3)
    for _ in range(5):
        waits.append(refused(breaker, now_s).retry_after_s)
        now_s += waits[-1]
        fail(breaker, now_s)
    assert waits == [5.0, 10.0, 20.0, 30.0, 30.0]
    now_s += refused(breaker, now_s).retry_after_s
    succeed(breaker, now_s)
    fail(breaker, now_s, times=3)
    assert refused(breaker, now_s).retry_after_s == 5.0


def test_a_thousand_failed_probings_overflow_nothing() -> None:
    breaker = a_breaker(open_growth=10.0, open_max_s=30.0)
    fail(breaker, times=3)
    for tick in range(1, 1001):
        fail(breaker, tick * 30.0)
    assert refused(breaker, 30_000.0).retry_after_s == 30.0


# ── probes ─────────────────────────────────────────────────────────────────────────────────────


def test_a_rejection_beside_a_probe_says_when_that_should_be_answered() -> None:
    breaker = a_breaker(slow_call_s=0.4)
    fail(breaker, times=3)
    permitted(breaker, 5.0)
    assert refused(breaker, 5.1) == Rejected(pytest.approx(0.3), State.HALF_OPEN)  # type: ignore[arg-type]
    assert refused(breaker, 6.0).retry_after_s == 5.0, "it will fail: then it is open for so long"


def test_a_probe_that_nobody_answers_is_lost_and_does_not_hold_it_half_open_for_ever() -> None:
    heard = Heard()
    breaker = a_breaker(heard, probe_lost_s=10.0)
    fail(breaker, times=3)
    lost = permitted(breaker, 5.0)
    refused(breaker, 14.9)
    refused(breaker, 15.0)
    assert heard.moves[-1] == (State.HALF_OPEN, State.OPEN, Reason.PROBE_LOST)
    breaker.on_success(lost, 20.0, 25.0)
    assert breaker.state is State.OPEN, "and what it says in the end comes too late"


def test_a_probe_is_lost_so_long_after_the_last_one_was_given() -> None:
    breaker = a_breaker(permitted_probes=2, probe_lost_s=10.0)
    fail(breaker, times=3)
    permitted(breaker, 5.0)
    permitted(breaker, 12.0)
    assert refused(breaker, 21.9).state is State.HALF_OPEN
    assert refused(breaker, 22.0).state is State.OPEN


def test_half_open_without_callers_waits_for_one_as_long_as_it_takes() -> None:
    breaker = a_breaker(probe_lost_s=10.0)
    fail(breaker, times=3)
    breaker.on_ignored(permitted(breaker, 5.0), 5.0)
    assert isinstance(breaker.acquire(5000.0), Permit)


def test_a_slow_probe_does_not_close_it() -> None:
    heard = Heard()
    breaker = a_breaker(heard, slow_call_s=0.4)
    fail(breaker, times=3)
    succeed(breaker, 5.0, duration_s=0.5)
    assert heard.moves[-1] == (State.HALF_OPEN, State.OPEN, Reason.PROBES_SLOW)


def test_looking_takes_no_permit_and_moves_nothing() -> None:
    breaker = a_breaker()
    fail(breaker, times=3)
    assert breaker.refusal(1.0) == Rejected(4.0, State.OPEN)
    assert breaker.refusal(5.0) is None
    assert breaker.state is State.OPEN
    assert breaker.snapshot(5.0).rejected == 0
    assert isinstance(breaker.acquire(5.0), Permit)


# ── permits ────────────────────────────────────────────────────────────────────────────────────


def test_a_permit_is_answered_once() -> None:
    breaker = a_breaker()
    permit = permitted(breaker)
    breaker.on_success(permit, 0.01, 0.0)
    for answer_again in (
        lambda: breaker.on_success(permit, 0.01, 0.0),
        lambda: breaker.on_failure(permit, "silent", 0.01, 0.0),
        lambda: breaker.on_ignored(permit, 0.0),
    ):
        with pytest.raises(RuntimeError, match="answered once"):
            answer_again()


def test_a_permit_is_current_until_the_breaker_moves() -> None:
    breaker = a_breaker()
    permit = permitted(breaker)
    assert breaker.is_current(permit)
    fail(breaker, times=3)
    assert not breaker.is_current(permit)


# ── the ramp ───────────────────────────────────────────────────────────────────────────────────


def recovered(**settings: Any) -> Breaker:
    breaker = a_breaker(**settings)
    fail(breaker, times=3)
    succeed(breaker, 5.0)
    assert breaker.state is State.CLOSED
    return breaker


def test_without_a_ramp_everybody_is_let_in_after_the_recovery() -> None:
    breaker = recovered()
    assert all(isinstance(breaker.acquire(5.0), Permit) for _ in range(1000))


def test_a_ramp_lets_few_in_at_once_and_more_with_each_success() -> None:
    breaker = recovered(ramp_start=2, ramp_max=8)
    in_flight = [permitted(breaker, 5.0), permitted(breaker, 5.0)]
    assert refused(breaker, 5.0).state is State.CLOSED
    widths = []
    for _ in range(6):
        for permit in in_flight:
            breaker.on_success(permit, 0.01, 5.0)
        in_flight = [answer for _ in range(40) if isinstance(answer := breaker.acquire(5.0), Permit)]
        widths.append(len(in_flight))
    assert widths == [4, 8, 40, 40, 40, 40]


def test_a_ramp_ends_in_time_even_if_nobody_answers() -> None:
    breaker = recovered(ramp_start=1, probe_lost_s=10.0)
    permitted(breaker, 5.0)
    refused(breaker, 14.0)
    assert isinstance(breaker.acquire(15.0), Permit)


# ── operators ──────────────────────────────────────────────────────────────────────────────────


def test_forced_open_refuses_until_told_otherwise_and_auto_begins_anew() -> None:
    heard = Heard()
    breaker = a_breaker(heard)
    breaker.force(Mode.FORCED_OPEN, 0.0)
    assert refused(breaker, 1e6).state is State.FORCED_OPEN
    breaker.force(Mode.AUTO, 1e6)
    assert isinstance(breaker.acquire(1e6), Permit)
    assert heard.moves == [
        (State.CLOSED, State.FORCED_OPEN, Reason.FORCED),
        (State.FORCED_OPEN, State.CLOSED, Reason.FORCED),
    ]


def test_observing_opens_nothing_and_says_once_per_reason_that_it_would_have() -> None:
    heard = Heard()
    breaker = a_breaker(heard, minimum_calls=6)
    breaker.force(Mode.OBSERVE, 0.0)
    fail(breaker, times=20)
    assert breaker.state is State.OBSERVE
    assert heard.would_open == [Reason.CONSECUTIVE_FAILURES, Reason.FAILURE_RATE]
    assert breaker.snapshot(0.0).failure_rate == 1.0
    breaker.force(Mode.AUTO, 0.0)
    assert breaker.snapshot(0.0).calls == 0
    fail(breaker, times=3)
    assert breaker.state is State.OPEN


def test_each_time_of_observing_tells_anew() -> None:
    heard = Heard()
    breaker = a_breaker(heard)
    for _ in range(2):
        breaker.force(Mode.OBSERVE, 0.0)
        fail(breaker, times=3)
        breaker.force(Mode.AUTO, 0.0)
    assert heard.would_open == [Reason.CONSECUTIVE_FAILURES] * 2


def test_a_success_ends_the_row_while_observing_too() -> None:
    heard = Heard()
    breaker = a_breaker(heard, minimum_calls=100)
    breaker.force(Mode.OBSERVE, 0.0)
    for _ in range(5):
        fail(breaker, times=2)
        succeed(breaker)
    assert heard.would_open == []


def test_calls_begun_before_a_mode_change_count_for_nothing() -> None:
    breaker = a_breaker()
    old = [permitted(breaker) for _ in range(5)]
    breaker.force(Mode.OBSERVE, 0.0)
    breaker.force(Mode.AUTO, 0.0)
    for permit in old:
        breaker.on_failure(permit, "silent", 0.01, 0.0)
    assert breaker.state is State.CLOSED
    assert breaker.snapshot(0.0).late == 5


def test_the_same_mode_again_changes_nothing() -> None:
    heard = Heard()
    breaker = a_breaker(heard)
    fail(breaker, times=2)
    breaker.force(Mode.AUTO, 0.0)
    assert breaker.snapshot(0.0).consecutive_failures == 2
    assert heard.moves == []


def test_a_reset_forgets_everything_and_ends_a_forced_mode() -> None:
    breaker = a_breaker()
    breaker.force(Mode.FORCED_OPEN, 0.0)
    breaker.reset(1.0)
    assert (breaker.state, breaker.mode) == (State.CLOSED, Mode.AUTO)
    fail(breaker, 1.0, times=2)
    breaker.reset(1.0)
    assert breaker.snapshot(1.0).consecutive_failures == 0


# ── showing ────────────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_is_json_and_says_why_since_when_and_until_when() -> None:
    breaker = a_breaker()
    fail(breaker, 10.0, times=3)
    refused(breaker, 11.0)
    shown = msgspec.json.decode(msgspec.json.encode(breaker.snapshot(12.0)))
    assert shown == {
        "state": "open",
        "mode": "auto",
        "since_s": 2.0,
        "cause": "3 failures in a row, the last: silent",
        "retry_after_s": 3.0,
        "calls": 3,
        "failed": 3,
        "slow": 0,
        "failure_rate": None,
        "slow_call_rate": None,
        "consecutive_failures": 3,
        "in_flight": 0,
        "rejected": 1,
        "late": 0,
        "transitions": 1,
    }


def test_repr_is_a_sentence_of_state() -> None:
    breaker = a_breaker()
    fail(breaker, times=3)
    assert repr(breaker) == "<Breaker open generation 1: 3 failures in a row, the last: silent>"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("failure_rate", 0.0),
        ("failure_rate", 1.1),
        ("slow_call_rate", 0.0),
        ("window_size", 0),
        ("minimum_calls", 0),
        ("permitted_probes", 0),
        ("open_s", 0.0),
        ("slow_call_s", 0.0),
        ("probe_lost_s", 0.0),
        ("open_growth", 0.5),
        ("open_max_s", 0.1),
        ("open_jitter", -0.1),
        ("consecutive_failures", -1),
        ("ramp_start", -1),
        ("ramp_max", -1),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        BreakerSettings(**{field: value})
