"""The breaker against any order of calls, answers, losses and pauses: what must always hold, and a second opinion.

`Second` is the breaker again, written the slow and plain way: it keeps every call of a state in a list and counts
them anew at each answer. Both are walked through the same steps and must agree after each.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tally.resilience.breaker import Breaker, BreakerSettings, Mode, Permit, Rejected, State


@dataclass
class Second:
    """A plain model without forced modes, ramp or jitter."""

    settings: BreakerSettings
    state: State = State.CLOSED
    calls: list[tuple[float, bool, bool]] = field(default_factory=list)
    row: int = 0
    reopen_at_s: float = 0.0
    open_s: float = 0.0
    probes_out: int = 0
    answered: int = 0
    last_probe_s: float = 0.0

    def acquire(self, now_s: float) -> bool:
        if self.state is State.OPEN and now_s >= self.reopen_at_s:
            self.state, self.calls, self.probes_out = State.HALF_OPEN, [], 0
        elif self.probes_lost(now_s):
            self.open(now_s)
        if self.state is State.HALF_OPEN and not self.all_out():
            self.probes_out += 1
            self.last_probe_s = now_s
            return True
        return self.state is State.CLOSED

    def probes_lost(self, now_s: float) -> bool:
        waited_s = now_s - self.last_probe_s
        return self.state is State.HALF_OPEN and self.all_out() and waited_s >= self.settings.probe_lost_s

    def all_out(self) -> bool:
        return self.probes_out + len(self.calls) >= self.settings.permitted_probes

    def answer(self, now_s: float, duration_s: float, failed: bool) -> None:
        slow = duration_s > self.settings.slow_call_s
        self.calls.append((now_s, failed, slow))
        if self.state is State.HALF_OPEN:
            self.probes_out -= 1
            if len(self.calls) >= min(self.settings.minimum_calls, self.settings.permitted_probes):
                if self.exceeded(self.calls):
                    self.open(now_s)
                else:
                    self.close()
            return
        self.row = self.row + 1 if failed else 0
        counted = self.in_window(now_s)
        by_rate = len(counted) >= self.settings.calls_needed and self.exceeded(counted)
        row_max = self.settings.consecutive_failures
        if by_rate or (failed and row_max and self.row >= row_max):
            self.open(now_s)

    def ignore(self) -> None:
        if self.state is State.HALF_OPEN:
            self.probes_out -= 1

    def in_window(self, now_s: float) -> list[tuple[float, bool, bool]]:
        size = self.settings.window_size
        if self.settings.window == "count":
            return self.calls[-size:]
        return [call for call in self.calls if math.floor(call[0]) > math.floor(now_s) - size]

    def exceeded(self, calls: list[tuple[float, bool, bool]]) -> bool:
        failed = sum(call[1] for call in calls) / len(calls)
        slow = sum(call[2] for call in calls) / len(calls)
        return failed >= self.settings.failure_rate or slow >= self.settings.slow_call_rate

    def open(self, now_s: float) -> None:
        grown_s = self.open_s * self.settings.open_growth if self.state is State.HALF_OPEN else self.settings.open_s
        self.open_s = min(grown_s, self.settings.open_max_s)
        self.state, self.reopen_at_s = State.OPEN, now_s + self.open_s

    def close(self) -> None:
        self.state, self.calls, self.row = State.CLOSED, [], 0


configurations = st.builds(
    BreakerSettings,
    consecutive_failures=st.integers(0, 4),
    failure_rate=st.sampled_from([0.25, 0.5, 1.0]),
    slow_call_rate=st.sampled_from([0.5, 1.0]),
    slow_call_s=st.just(0.5),
    window=st.sampled_from(["time", "count"]),
    window_size=st.integers(1, 6),
    minimum_calls=st.integers(1, 8),
    permitted_probes=st.integers(1, 4),
    open_s=st.just(2.0),
    open_growth=st.sampled_from([1.0, 2.0]),
    open_max_s=st.just(7.0),
    open_jitter=st.just(0.0),
    probe_lost_s=st.just(4.0),
)


class BreakerUnderAnything(RuleBasedStateMachine):
    @initialize(configuration=configurations, began_s=st.sampled_from([0.0, 12345.678]))
    def begin(self, configuration: BreakerSettings, began_s: float) -> None:
        self.settings = configuration
        self.now_s = began_s
        self.breaker = Breaker(configuration, random=lambda: 0.0, now_s=began_s)
        self.second = Second(configuration)
        self.out: list[Permit] = []
        self.probes: list[Permit] = []
        self.forced = False

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 3.0, 10.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def come_back_when_told(self) -> None:
        refusal = self.breaker.refusal(self.now_s)
        if refusal is None or self.forced:
            return
        self.now_s += refusal.retry_after_s
        if refusal.state is State.OPEN:
            self.now_s = math.nextafter(self.now_s, math.inf)  # a sum may round below the term
            assert self.breaker.refusal(self.now_s) is None

    @rule()
    def acquire(self) -> None:
        expected = None if self.forced else self.second.acquire(self.now_s)
        answer = self.breaker.acquire(self.now_s)
        if isinstance(answer, Permit):
            self.out.append(answer)
            if self.breaker.state is State.HALF_OPEN:
                self.probes.append(answer)
        else:
            assert answer.retry_after_s > 0 and math.isfinite(answer.retry_after_s)
        if expected is not None:
            assert isinstance(answer, Permit) == expected

    @precondition(lambda self: bool(self.out))
    @rule(data=st.data(), duration_s=st.sampled_from([0.1, 0.5, 0.6]), failed=st.booleans())
    def answer(self, data: Any, duration_s: float, failed: bool) -> None:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if self.breaker.is_current(permit) and not self.forced:
            self.second.answer(self.now_s, duration_s, failed)
        if failed:
            self.breaker.on_failure(permit, "silent", duration_s, self.now_s)
        else:
            self.breaker.on_success(permit, duration_s, self.now_s)

    @precondition(lambda self: bool(self.out))
    @rule(data=st.data())
    def ignore(self, data: Any) -> None:
        permit = self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))
        if self.breaker.is_current(permit) and not self.forced:
            self.second.ignore()
        self.breaker.on_ignored(permit, self.now_s)

    @precondition(lambda self: bool(self.out))
    @rule(data=st.data())
    def lose(self, data: Any) -> None:
        self.out.pop(data.draw(st.integers(0, len(self.out) - 1)))

    @rule(mode=st.sampled_from(list(Mode)))
    def force(self, mode: Mode) -> None:
        self.breaker.force(mode, self.now_s)
        if mode is not Mode.AUTO:
            self.forced = True
        elif self.forced:
            self.forced = False
            self.second = Second(self.settings)

    @invariant()
    def both_agree(self) -> None:
        if hasattr(self, "breaker") and not self.forced:
            assert self.breaker.state is self.second.state
            assert self.breaker.snapshot(self.now_s).consecutive_failures >= 0

    @invariant()
    def no_more_probes_than_permitted_are_under_way(self) -> None:
        if hasattr(self, "breaker") and self.breaker.state is State.HALF_OPEN:
            current = [probe for probe in self.probes if self.breaker.is_current(probe) and not probe.answered]
            assert len(current) <= self.settings.permitted_probes

    @invariant()
    def a_refusal_always_says_when_to_come_back(self) -> None:
        if hasattr(self, "breaker"):
            refusal = self.breaker.refusal(self.now_s)
            assert refusal is None or isinstance(refusal, Rejected)
            assert refusal is None or 0 < refusal.retry_after_s <= self.settings.open_max_s

    @invariant()
    def aiobreaker_stands_where_we_do(self) -> None:
        if hasattr(self, "breaker"):
            theirs = self.breaker._circuit
            assert theirs.current_state is theirs.state.state
            assert theirs.counted.opened_at is None

    @invariant()
    def counts_are_never_negative(self) -> None:
        if hasattr(self, "breaker"):
            shown = self.breaker.snapshot(self.now_s)
            assert min(shown.calls, shown.failed, shown.slow, shown.in_flight, shown.late, shown.since_s) >= 0
            assert shown.failed <= shown.calls and shown.slow <= shown.calls


BreakerUnderAnything.TestCase.settings = settings(
    max_examples=100, stateful_step_count=50, deadline=None, derandomize=True
)
TestBreakerUnderAnything = BreakerUnderAnything.TestCase
