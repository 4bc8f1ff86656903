"""Our breaker against resilience4j's documented behaviour, row by row.

Each row quotes one rule in our words, names where resilience4j says it, and gives a scenario and what must be true
after it. Scenarios are words, carried out from left to right on a clock that only `wait` moves:

    ok fail          a call that succeeds or fails in 0.1 s          slow slowfail   the same, in 5 s
    even             a call that takes exactly the slow threshold    ignore          a call with an ignored error
    take             a permit that is held; `held:ok` (or fail, slow, ignore) answers the oldest one held
    no               a call that must be refused                     wait:3          3 s pass
    force:observe    an operator's mode                              reset           an operator's reset
    fail*3           the same three times

Where we differ on purpose the row is in `DIFFERENT`, with resilience4j's rule, ours, and why. Sources are the
repository resilience4j/resilience4j (class and member) and its documentation page "CircuitBreaker"
(resilience4j.readme.io/docs/circuitbreaker).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from tally.resilience.breaker import (
    Breaker,
    BreakerSettings,
    BreakerSnapshot,
    Cause,
    Mode,
    Permit,
    Reason,
    Rejected,
    State,
)

DOCS = "documentation, CircuitBreaker"
CONFIG = "CircuitBreakerConfig.Builder"
API = "CircuitBreaker"
METRICS = "CircuitBreakerMetrics"
TEST = "CircuitBreakerStateMachineTest"

SLOW_S = 4.0

# The settings of CircuitBreakerStateMachineTest.setUp, in our words.
THEIR_TEST: dict[str, Any] = {
    "consecutive_failures": 0,
    "failure_rate": 0.5,
    "permitted_probes": 4,
    "slow_call_s": SLOW_S,
    "slow_call_rate": 0.5,
    "window": "time",
    "window_size": 5,
    "minimum_calls": 5,
    "open_s": 5.0,
    "open_growth": 1.0,
    "open_jitter": 0.0,
}
COUNT = {"window": "count"}
OPENED = "fail*5"
HALF_OPEN = "fail*5 wait:5"


class Row(NamedTuple):
    name: str
    rule: str
    source: str
    scenario: str
    expected: dict[str, Any]
    settings: dict[str, Any] = {}  # noqa: RUF012  (never changed)


ROWS = [
    # ── closed to open: failure rate ──
    Row(
        "the_rate_opens_when_equal_to_the_threshold",
        "Equal to or greater than the threshold opens it.",
        f"{CONFIG}.failureRateThreshold",
        "ok*5 fail*5",
        {"state": State.OPEN, "calls": 10, "failure_rate": 0.5},
        {**COUNT, "window_size": 10, "minimum_calls": 10},
    ),
    Row(
        "the_rate_below_the_threshold_keeps_it_closed",
        "Only equal to or greater than the threshold opens it.",
        f"{CONFIG}.failureRateThreshold",
        "ok*6 fail*4",
        {"state": State.CLOSED, "failure_rate": 0.4},
        {**COUNT, "window_size": 10, "minimum_calls": 10},
    ),
    Row(
        "three_failures_of_five_open_it_and_the_fifth_call_may_be_a_success",
        "The thresholds are checked after successes too: here the fifth call, a success, completes the minimum.",
        f"{TEST}.shouldOpenAfterFailureRateThresholdExceeded",
        "fail*3 ok ok no",
        {"state": State.OPEN, "calls": 5, "failed": 3, "failure_rate": 0.6, "rejected": 1},
    ),
    Row(
        "a_threshold_of_all_needs_all",
        "A threshold of 100 opens only when every recorded call failed.",
        f"{CONFIG}.failureRateThreshold",
        "fail*4 ok",
        {"state": State.CLOSED, "failure_rate": 0.8},
        {"failure_rate": 1.0},
    ),
    # ── minimum number of calls ──
    Row(
        "nine_of_nine_failures_do_not_open_it_if_ten_are_needed",
        "If only 9 calls were recorded it does not open, even if all 9 failed.",
        f"{CONFIG}.minimumNumberOfCalls",
        "fail*9",
        {"state": State.CLOSED, "calls": 9, "failure_rate": None, "slow_call_rate": None},
        {"minimum_calls": 10},
    ),
    Row(
        "the_tenth_call_opens_it",
        "At least 10 calls must be recorded before the rate can be calculated.",
        f"{CONFIG}.minimumNumberOfCalls",
        "fail*9 ok",
        {"state": State.OPEN, "failure_rate": 0.9},
        {"minimum_calls": 10},
    ),
    Row(
        "a_minimum_above_a_count_window_is_cut_to_its_size",
        "If the window is count based, a greater minimum is equal to the window's size.",
        f"{CONFIG}.slidingWindow",
        "fail*5",
        {"state": State.OPEN, "calls": 5},
        {**COUNT, "window_size": 5, "minimum_calls": 100},
    ),
    Row(
        "a_minimum_for_a_time_window_may_be_any_amount",
        "If the window is time based, the minimum may be any amount.",
        f"{CONFIG}.slidingWindow",
        "fail*99",
        {"state": State.CLOSED, "failure_rate": None},
        {"minimum_calls": 100},
    ),
    Row(
        "the_minimum_is_per_window",
        "The minimum is required per sliding window period: older calls do not add to it.",
        f"{CONFIG}.minimumNumberOfCalls",
        "fail*4 wait:5 fail*4",
        {"state": State.CLOSED, "calls": 4, "failure_rate": None},
    ),
    # ── count-based window ──
    Row(
        "a_count_window_keeps_the_last_n_calls",
        "12 calls recorded, 10 in the window: 4 successes and 6 failures are 60 %.",
        "CircuitBreakerMetricsTest.testCircuitBreakerMetrics",
        "force:observe ok ok fail*6 ok*4",
        {"calls": 10, "failed": 6, "failure_rate": 0.6},
        {**COUNT, "window_size": 10, "minimum_calls": 10},
    ),
    Row(
        "what_leaves_a_count_window_is_subtracted",
        "Three successes later three of the failures have been evicted: 30 %.",
        "CircuitBreakerMetricsTest.testCircuitBreakerMetrics",
        "force:observe ok ok fail*6 ok*4 ok*3",
        {"calls": 10, "failed": 3, "failure_rate": 0.3},
        {**COUNT, "window_size": 10, "minimum_calls": 10},
    ),
    Row(
        "a_count_window_ignores_the_passing_of_time",
        "It aggregates the last N calls, whenever they were.",
        "FixedSizeSlidingWindowMetrics",
        "fail*2 ok*2 wait:100000 fail",
        {"state": State.OPEN, "calls": 5, "failed": 3},
        {**COUNT, "window_size": 5},
    ),
    # ── time-based window ──
    Row(
        "a_time_window_keeps_the_last_n_seconds",
        "It aggregates only the calls of the last N seconds.",
        "SlidingTimeWindowMetrics",
        "fail*4 wait:5 ok*5",
        {"state": State.CLOSED, "calls": 5, "failed": 0},
    ),
    Row(
        "a_time_window_holds_the_current_second_and_the_n_minus_1_before_it",
        "The head bucket is the current second, the others the previous N-1 seconds.",
        "SlidingTimeWindowMetrics",
        "fail*3 wait:4 ok ok",
        {"state": State.OPEN, "calls": 5, "failed": 3},
    ),
    Row(
        "a_time_window_empties_without_calls",
        "A snapshot moves the window to the current second first.",
        "SlidingTimeWindowMetrics.getSnapshot",
        "ok*3 wait:60",
        {"calls": 0},
    ),
    # ── slow calls ──
    Row(
        "slow_successes_open_it",
        "At a slow-call rate equal to or greater than the threshold it opens.",
        f"{CONFIG}.slowCallRateThreshold",
        "slow*3 ok*2",
        {"state": State.OPEN, "slow": 3, "slow_call_rate": 0.6, "failed": 0},
    ),
    Row(
        "the_slow_call_rate_opens_when_equal_to_the_threshold",
        "Equal to or greater than the threshold opens it.",
        f"{CONFIG}.slowCallRateThreshold",
        "slow*5 ok*5",
        {"state": State.OPEN, "slow_call_rate": 0.5},
        {**COUNT, "window_size": 10, "minimum_calls": 10},
    ),
    Row(
        "slow_failures_and_slow_successes_count_together",
        "Slow, slow, fast, fast, slow: 60 % slow opens it.",
        f"{TEST}.shouldOpenAfterSlowCallRateThresholdExceeded",
        "slowfail slow fail ok slow",
        {"state": State.OPEN, "calls": 5, "slow": 3, "slow_call_rate": 0.6},
    ),
    Row(
        "slow_is_longer_than_the_threshold_not_as_long",
        "A call is slow when its duration is greater than slowCallDurationThreshold.",
        f"{CONFIG}.slowCallRateThreshold; {METRICS}.onSuccess",
        "even*5",
        {"state": State.CLOSED, "slow": 0},
    ),
    Row(
        "few_slow_calls_leave_it_closed",
        "Below the slow-call threshold it stays closed.",
        f"{CONFIG}.slowCallRateThreshold",
        "slow*2 ok*3",
        {"state": State.CLOSED, "slow_call_rate": 0.4},
    ),
    Row(
        "the_slow_call_rate_needs_the_minimum_too",
        "Both rates are only calculated once the minimum of calls is recorded.",
        DOCS,
        "slow*4",
        {"state": State.CLOSED, "slow_call_rate": None},
    ),
    # ── ignored errors ──
    Row(
        "an_ignored_error_is_neither_failure_nor_success",
        "Ignored exceptions neither count as a failure nor success.",
        f"{CONFIG}.ignoreExceptions",
        "ignore*50 ok fail",
        {"state": State.CLOSED, "calls": 2, "failed": 1},
    ),
    Row(
        "ignored_errors_do_not_dilute_the_rate",
        "Being no success, they leave the failure rate as it is.",
        f"{CONFIG}.ignoreExceptions",
        "fail*3 ignore*50 ok*2",
        {"state": State.OPEN, "failure_rate": 0.6},
    ),
    # ── concurrency while closed ──
    Row(
        "a_window_is_no_limit_on_concurrency",
        "20 concurrent calls are all permitted while closed, even with a window of 15.",
        DOCS,
        "take*20",
        {"state": State.CLOSED, "in_flight": 20, "rejected": 0},
        {**COUNT, "window_size": 15, "minimum_calls": 15},
    ),
    # ── open ──
    Row(
        "open_refuses_every_call",
        "When it is OPEN, calls are rejected.",
        DOCS,
        f"{OPENED} no*3 wait:4.9 no",
        {"state": State.OPEN, "rejected": 4},
    ),
    Row(
        "open_stays_open_until_a_call_comes",
        "Without automatic transition the change to HALF_OPEN happens only when a call is made.",
        f"{CONFIG}.automaticTransitionFromOpenToHalfOpenEnabled",
        f"{OPENED} wait:1000",
        {"state": State.OPEN},
    ),
    Row(
        "the_first_call_after_the_wait_half_opens_it",
        "After the wait duration the state changes from OPEN to HALF_OPEN and the call is permitted.",
        f"{TEST}.shouldTransitionToHalfOpenAfterWaitDuration",
        f"{OPENED} wait:3 no wait:3 take",
        {"state": State.HALF_OPEN, "calls": 0, "failure_rate": None},
    ),
    Row(
        "the_wait_can_grow_with_each_failed_probing",
        "An interval function of the attempts controls the wait (5 s, then 10 s).",
        f"{CONFIG}.waitIntervalFunctionInOpenState; {TEST}.shouldTransitionToHalfOpenAfterWaitInterval",
        f"{HALF_OPEN} fail wait:9 no wait:1 take",
        {"state": State.HALF_OPEN},
        {"open_growth": 2.0, "permitted_probes": 1},
    ),
    # ── half-open ──
    Row(
        "half_open_permits_only_so_many_calls",
        "Four test calls are permitted, further calls are rejected until these have completed.",
        f"{TEST}.shouldOnlyPermitFourCallsInHalfOpenState",
        f"{HALF_OPEN} take*4 no no",
        {"state": State.HALF_OPEN, "in_flight": 4, "rejected": 2},
    ),
    Row(
        "a_completed_test_call_makes_no_room_for_another",
        "The number of test calls is a number, not a concurrency: an answered one is not replaced.",
        f"{API}.tryAcquirePermission",
        f"{HALF_OPEN} take*4 held:ok no held:ok no",
        {"state": State.HALF_OPEN, "calls": 2},
    ),
    Row(
        "a_released_permission_can_be_taken_again",
        "If the state is HALF_OPEN, the number of allowed test calls is increased by one.",
        f"{API}.releasePermission; {TEST}.shouldIncreaseCounterOnReleasePermission",
        f"{HALF_OPEN} take*4 no held:ignore take no",
        {"state": State.HALF_OPEN, "in_flight": 4},
    ),
    Row(
        "an_ignored_error_releases_its_permission",
        "Ignoring an exception releases the permission; the next four results decide.",
        f"{TEST}.shouldReleasePermissionWhenExceptionIgnored",
        f"{HALF_OPEN} ok*3 ignore fail",
        {"state": State.CLOSED, "calls": 0},
    ),
    Row(
        "any_number_of_ignored_errors_decides_nothing",
        "Four ignored errors leave it HALF_OPEN, then four successes close it.",
        f"{TEST}.shouldIgnoreExceptionsAndThenTransitionToClosed",
        f"{HALF_OPEN} ignore*4 ok*3",
        {"state": State.HALF_OPEN, "calls": 3, "failed": 0, "failure_rate": None},
    ),
    Row(
        "half_open_waits_for_all_its_permitted_calls",
        "Three of four have answered: no rate yet, still HALF_OPEN.",
        f"{TEST}.shouldReleasePermissionWhenExceptionIgnored",
        f"{HALF_OPEN} fail*3",
        {"state": State.HALF_OPEN, "calls": 3, "failure_rate": None},
    ),
    Row(
        "a_minimum_below_the_permitted_calls_decides_earlier",
        "Half-open the minimum is the lesser of minimumNumberOfCalls and the permitted calls.",
        f"{METRICS} (constructor); {CONFIG}.maxWaitDurationInHalfOpenState",
        "fail fail wait:5 ok ok",
        {"state": State.CLOSED},
        {"minimum_calls": 2, "permitted_probes": 10},
    ),
    Row(
        "half_open_failure_rate_at_or_above_the_threshold_opens_it_again",
        "Three failures of four: back to OPEN.",
        f"{TEST}.shouldTransitionBackToOpenStateWhenFailureRateIsAboveThreshold",
        f"{HALF_OPEN} fail*2 ok fail",
        {"state": State.OPEN, "calls": 4, "failed": 3, "failure_rate": 0.75},
    ),
    Row(
        "half_open_slow_call_rate_at_or_above_the_threshold_opens_it_again",
        "Three slow successes of four: back to OPEN, though nothing failed.",
        f"{TEST}.shouldTransitionBackToOpenStateWhenSlowCallRateIsAboveThreshold",
        f"{HALF_OPEN} slow*3 ok",
        {"state": State.OPEN, "slow": 3, "slow_call_rate": 0.75, "failure_rate": 0.0},
    ),
    Row(
        "half_open_below_the_thresholds_closes_it",
        "One failure of four: CLOSED.",
        f"{TEST}.shouldTransitionBackToClosedStateWhenFailureIsBelowThreshold",
        f"{HALF_OPEN} fail ok*3",
        {"state": State.CLOSED, "calls": 0, "failure_rate": None},
    ),
    Row(
        "closed_again_starts_with_an_empty_window",
        "The closed state after a recovery has metrics of its own.",
        f"{TEST}.shouldTransitionBackToClosedStateWhenFailureIsBelowThreshold",
        f"{HALF_OPEN} ok*4 fail*4",
        {"state": State.CLOSED, "calls": 4, "failed": 4},
    ),
    Row(
        "each_half_opening_has_its_own_test_calls",
        "After OPEN and HALF_OPEN again, four calls are permitted again.",
        f"{TEST}.shouldOnlyPermitFourCallsInHalfOpenState",
        f"{HALF_OPEN} fail*4 wait:5 take*4 no",
        {"state": State.HALF_OPEN, "in_flight": 4},
    ),
    # ── special states ──
    Row(
        "disabled_lets_everything_through_and_records_nothing",
        "DISABLED always allows access, records no metrics and never opens.",
        f"{DOCS}; {TEST}.shouldDisableCircuitBreaker",
        "force:forced_closed ok fail*50 slow*50",
        {"state": State.FORCED_CLOSED, "calls": 0, "failed": 0, "failure_rate": None},
    ),
    Row(
        "forced_open_refuses_for_ever",
        "FORCED_OPEN always denies access and does not half-open when the wait is over.",
        f"{DOCS}; {TEST}.shouldForceOpenCircuitBreaker",
        "force:forced_open no wait:6 no",
        {"state": State.FORCED_OPEN, "calls": 0, "rejected": 2},
    ),
    Row(
        "metrics_only_collects_and_lets_everything_through",
        "METRICS_ONLY collects metrics, allows all calls and does not transition.",
        f"{API}.State.METRICS_ONLY",
        "force:observe fail*5 slow*5",
        {"state": State.OBSERVE, "calls": 10, "failed": 5, "slow": 5, "failure_rate": 0.5, "rejected": 0},
    ),
    Row(
        "a_special_state_is_left_by_an_operator_only",
        "The only way to exit is to trigger a state transition or to reset.",
        DOCS,
        "force:forced_open wait:1000 no force:auto ok",
        {"state": State.CLOSED, "calls": 1},
    ),
    Row(
        "reset_closes_it_and_loses_the_statistics",
        "reset returns it to its original closed state, losing statistics.",
        f"{API}.reset; {TEST}.shouldResetToClosedState",
        f"{OPENED} no reset",
        {"state": State.CLOSED, "calls": 0, "failed": 0},
    ),
    Row(
        "reset_while_closed_empties_the_window",
        "reset in CLOSED loses the statistics too.",
        f"{TEST}.shouldResetClosedState",
        "ok ok fail reset",
        {"state": State.CLOSED, "calls": 0},
    ),
    Row(
        "forcing_twice_is_forcing_once",
        "The transitions to special states are idempotent.",
        f"{API}.transitionToForcedOpenState",
        "force:forced_open force:forced_open no",
        {"state": State.FORCED_OPEN, "transitions": 1},
    ),
]


class Different(NamedTuple):
    name: str
    theirs: str
    source: str
    ours: str
    why: str
    scenario: str
    expected: dict[str, Any]
    settings: dict[str, Any] = {}  # noqa: RUF012  (never changed)


DIFFERENT = [
    Different(
        "a_late_answer_of_an_older_state_is_dropped",
        "onError and onSuccess are recorded in whatever state they arrive, also OPEN.",
        "CircuitBreakerStateMachine.OpenState.onError (comment)",
        "An answer counts only in the generation that permitted its call.",
        "A call of before the outage must not close a half-open breaker, nor open a recovered one.",
        f"take*2 {OPENED} wait:5 take held:ok held:fail",
        {"state": State.HALF_OPEN, "calls": 0, "late": 2},
    ),
    Different(
        "open_time_ends_at_its_end",
        "A call is permitted once the clock is after the end of the wait.",
        "CircuitBreakerStateMachine.OpenState.tryAcquirePermission",
        "It is permitted at the end of the wait already.",
        "Who comes back exactly after Retry-After must not be turned away.",
        f"{OPENED} wait:5 take",
        {"state": State.HALF_OPEN},
    ),
    Different(
        "an_unanswered_probe_is_lost_after_a_while",
        "maxWaitDurationInHalfOpenState opens it from the first moment of HALF_OPEN on; by default it waits for ever "
        "(resilience4j#903).",
        f"{CONFIG}.maxWaitDurationInHalfOpenState",
        "It opens if all probes are out and none was answered for probe_lost_s; without callers it waits.",
        "A lost permit must not block a peer for ever, and a pause between callers must not count as failure.",
        f"{HALF_OPEN} take*4 wait:9 no wait:1 no",
        {"state": State.OPEN},
        {"probe_lost_s": 10.0},
    ),
    Different(
        "half_open_without_callers_waits",
        "maxWaitDurationInHalfOpenState runs also while nobody calls.",
        f"{CONFIG}.maxWaitDurationInHalfOpenState",
        "It waits for a caller, however long.",
        "Nothing was learnt of the peer meanwhile.",
        f"{HALF_OPEN} ok wait:10000 ok*3",
        {"state": State.CLOSED},
    ),
    Different(
        "consecutive_failures_open_it_too",
        "Only rates open it.",
        DOCS,
        "So do `consecutive_failures` in a row, as in aiobreaker.",
        "At one call a second a rate over 20 calls takes 20 s to notice a dead peer.",
        "ok*3 fail*3",
        {"state": State.OPEN, "consecutive_failures": 3},
        {"consecutive_failures": 3, "minimum_calls": 100},
    ),
    Different(
        "one_probe_by_default",
        "permittedNumberOfCallsInHalfOpenState is 10 by default.",
        f"{CONFIG}.permittedNumberOfCallsInHalfOpenState",
        "One.",
        "Ten probes of each of many gateways are a load of their own on a peer that is just starting.",
        "fail*20 wait:2 take no",
        {"state": State.HALF_OPEN, "in_flight": 1},
        {**{field: getattr(BreakerSettings(), field) for field in THEIR_TEST}, "open_jitter": 0.0,
         "consecutive_failures": 0},
    ),
]  # fmt: skip

WORDS = {
    "ok": (False, 0.1),
    "fail": (True, 0.1),
    "slow": (False, 5.0),
    "slowfail": (True, 5.0),
    "even": (False, SLOW_S),
}


class Heard:
    def __init__(self) -> None:
        self.moves: list[tuple[State, State, Reason]] = []
        self.would_open: list[Reason] = []

    def on_transition(self, old: State, new: State, cause: Cause) -> None:
        self.moves.append((old, new, cause.reason))

    def on_would_open(self, cause: Cause) -> None:
        self.would_open.append(cause.reason)


class Play:
    """Carries out a scenario."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.heard = Heard()
        self.now_s = 1000.0
        self.held: list[Permit] = []
        self.breaker = Breaker(
            BreakerSettings(**{**THEIR_TEST, **settings}),
            random=lambda: 0.0,
            now_s=self.now_s,
            listeners=(self.heard,),
        )

    def run(self, scenario: str) -> BreakerSnapshot:
        for step in scenario.split():
            word, _, times = step.partition("*")
            for _ in range(int(times or 1)):
                self.step(word)
        return self.breaker.snapshot(self.now_s)

    def step(self, word: str) -> None:
        verb, _, argument = word.partition(":")
        match verb:
            case "wait":
                self.now_s += float(argument)
            case "force":
                self.breaker.force(Mode(argument), self.now_s)
            case "reset":
                self.breaker.reset(self.now_s)
            case "no":
                assert isinstance(self.breaker.acquire(self.now_s), Rejected)
            case "take":
                self.held.append(self.permit())
            case "held":
                self.answer(self.held.pop(0), argument)
            case _:
                self.answer(self.permit(), verb)

    def permit(self) -> Permit:
        permit = self.breaker.acquire(self.now_s)
        assert isinstance(permit, Permit), permit
        return permit

    def answer(self, permit: Permit, word: str) -> None:
        if word == "ignore":
            self.breaker.on_ignored(permit, self.now_s)
            return
        failed, duration_s = WORDS[word]
        if failed:
            self.breaker.on_failure(permit, "broken", duration_s, self.now_s)
        else:
            self.breaker.on_success(permit, duration_s, self.now_s)


def assert_shows(snapshot: BreakerSnapshot, expected: dict[str, Any], why: str) -> None:
    for name, value in expected.items():
        assert getattr(snapshot, name) == (pytest.approx(value) if isinstance(value, float) else value), (name, why)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_as_resilience4j(row: Row) -> None:
    snapshot = Play(row.settings).run(row.scenario)
    assert_shows(snapshot, row.expected, f"{row.rule} ({row.source})")


@pytest.mark.parametrize("row", DIFFERENT, ids=lambda row: row.name)
def test_unlike_resilience4j(row: Different) -> None:
    snapshot = Play(row.settings).run(row.scenario)
    assert_shows(snapshot, row.expected, f"theirs: {row.theirs} ours: {row.ours} because: {row.why}")


def test_no_row_is_there_twice() -> None:
    names = [row.name for row in (*ROWS, *DIFFERENT)]
    assert len(names) == len(set(names))


# ── events ─────────────────────────────────────────────────────────────────────────────────────


def test_every_transition_is_told_once_and_in_order() -> None:
    """CircuitBreakerOnStateTransitionEvent: CLOSED_TO_OPEN, OPEN_TO_HALF_OPEN, HALF_OPEN_TO_OPEN, …_TO_CLOSED."""
    play = Play({})
    play.run(f"{HALF_OPEN} fail*4 wait:5 ok*4")
    assert play.heard.moves == [
        (State.CLOSED, State.OPEN, Reason.FAILURE_RATE),
        (State.OPEN, State.HALF_OPEN, Reason.OPEN_TIME_OVER),
        (State.HALF_OPEN, State.OPEN, Reason.PROBES_FAILED),
        (State.OPEN, State.HALF_OPEN, Reason.OPEN_TIME_OVER),
        (State.HALF_OPEN, State.CLOSED, Reason.PROBES_PASSED),
    ]


def test_a_transition_to_the_same_state_is_not_told() -> None:
    """CircuitBreakerStateMachine.publishStateTransitionEvent: internal transitions are not published."""
    play = Play({})
    play.run("ok reset")
    assert play.heard.moves == []


def test_the_special_states_tell_of_their_transitions() -> None:
    """In DISABLED and FORCED_OPEN no events are generated, apart from the state transition."""
    play = Play({})
    play.run("force:forced_closed fail*20 force:forced_open no force:auto")
    assert [(old, new) for old, new, _ in play.heard.moves] == [
        (State.CLOSED, State.FORCED_CLOSED),
        (State.FORCED_CLOSED, State.FORCED_OPEN),
        (State.FORCED_OPEN, State.CLOSED),
    ]


def test_metrics_only_tells_once_of_each_exceeded_rate() -> None:
    """MetricsOnlyState: the exceeded events are published once for each rate."""
    play = Play({"failure_rate": 0.6})
    play.run("force:observe fail*20 slow*20 wait:10 slow*20 fail*10")
    assert play.heard.would_open == [Reason.FAILURE_RATE, Reason.SLOW_CALL_RATE]


@pytest.mark.parametrize(
    ("field", "refused", "allowed"),
    [
        ("failure_rate", (0.0, 1.01), (0.01, 1.0)),
        ("slow_call_rate", (0.0, 1.01), (0.01, 1.0)),
        ("permitted_probes", (0,), (1,)),
        ("window_size", (0,), (1,)),
        ("minimum_calls", (0,), (1,)),
        ("slow_call_s", (0.0,), (0.001,)),
        ("open_s", (0.0,), (0.001,)),
    ],
)
def test_settings_have_the_documented_bounds(field: str, refused: tuple[float], allowed: tuple[float]) -> None:
    """CircuitBreakerConfig.Builder: rates above 0 and at most 100, sizes and durations at least 1."""
    for value in refused:
        with pytest.raises(ValueError, match=field):
            BreakerSettings(**{field: value})  # type: ignore[arg-type]
    for value in allowed:
        BreakerSettings(**{field: value})  # type: ignore[arg-type]
