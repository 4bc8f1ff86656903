"""Stop calling a peer that fails or drags; find out with one call whether it is back.

Theory of operation
-------------------
    CLOSED ──(failure rate, slow-call rate or consecutive failures)──▶ OPEN
    OPEN ──(open time over, and somebody calls)──▶ HALF_OPEN
    HALF_OPEN ──(probes passed)──▶ CLOSED         HALF_OPEN ──(probes failed, dragged or got lost)──▶ OPEN
    any ──(operator)──▶ FORCED_OPEN | FORCED_CLOSED | OBSERVE ──(operator)──▶ CLOSED

The caller decides first and then does: `acquire` gives a `Permit` or says `Rejected`; every permit is
answered once, by `on_success`, `on_failure` or `on_ignored`. Each state is a generation, and a permit
belongs to the generation that gave it: the answer of a call that began in an older one is dropped, whatever
it says.

The state machine, the consecutive count and the notification of changes are aiobreaker's (1.2.0). It stays
behind this class because alone it does these things, each measured, each with a test of its own:

- half-open, it lets every concurrent caller through; here `permitted_probes`, by default one;
- it mixes UTC and local wall clocks (in Tokyo its remaining time is None, in New York 5 hours for 30 s) and
  warns of `utcnow` from Python 3.12 on; here it never sees a clock: times are the caller's monotonic
  seconds;
- it raises its own error in the place of the call's; here it is told of outcomes and gives none;
- it counts an excluded error as a success; here such an answer is neither (`on_ignored`);
- a call that began before the opening and fails late opens it anew; here it belongs to an older generation;
- it knows no rates; here a sliding window, with the rules of resilience4j's CircuitBreaker.

A cancelled call says nothing about the peer: `on_ignored` gives its probe permit back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol, TypeAlias

import msgspec

from tally.resilience.circuit import Circuit, CircuitBreakerState
from tally.resilience.window import CallWindow, CountWindow, TimeWindow, Totals

# What went wrong: an exception, or the name of an outcome that is a value.
Error: TypeAlias = BaseException | str


class State(StrEnum):
    """Where a breaker is. The values are metric labels."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"  # lets nothing through, until told otherwise
    FORCED_CLOSED = "forced_closed"  # lets everything through and counts nothing (resilience4j: DISABLED)
    OBSERVE = "observe"  # lets everything through and counts (resilience4j: METRICS_ONLY)


class Mode(StrEnum):
    """What an operator may ask of a breaker."""

    AUTO = "auto"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"
    OBSERVE = "observe"


class Reason(StrEnum):
    """Why a breaker moved. The values are metric labels."""

    CONSECUTIVE_FAILURES = "consecutive_failures"
    FAILURE_RATE = "failure_rate"
    SLOW_CALL_RATE = "slow_call_rate"
    OPEN_TIME_OVER = "open_time_over"
    PROBES_PASSED = "probes_passed"
    PROBES_FAILED = "probes_failed"
    PROBES_SLOW = "probes_slow"
    PROBE_LOST = "probe_lost"
    FORCED = "forced"
    RESET = "reset"


@dataclass(frozen=True, slots=True)
class Cause:
    """Why, twice: for a metric label, and as a sentence for the log (which quotes no error's message)."""

    reason: Reason
    detail: str


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are shares (0.5 is half), compared with >= as in resilience4j; a call is slow if it took longer
    than `slow_call_s`. `window` "time" counts the last `window_size` seconds, "count" as many calls.
    """

    consecutive_failures: int = 5  # 0: only the rates open it
    failure_rate: float = 0.5
    slow_call_rate: float = 0.8
    slow_call_s: float = 0.4
    window: Literal["time", "count"] = "time"
    window_size: int = 10
    minimum_calls: int = 20
    permitted_probes: int = 1
    open_s: float = 2.0
    open_growth: float = 1.5  # each failed probing multiplies the open time, up to open_max_s
    open_max_s: float = 30.0
    open_jitter: float = 0.2  # up to this share longer, so that many gateways don't probe at one instant
    probe_lost_s: float = 10.0  # a probe that nobody answered for this long counts as failed
    # After a recovery: this many calls at once, one more with each success, free at ramp_max. 0: no ramp.
    ramp_start: int = 0
    ramp_max: int = 64

    def __post_init__(self) -> None:
        for name in ("failure_rate", "slow_call_rate"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be above 0 and at most 1")
        for name in ("window_size", "minimum_calls", "permitted_probes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more")
        for name in ("slow_call_s", "open_s", "probe_lost_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("consecutive_failures", "open_jitter", "ramp_start", "ramp_max"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 or more")
        if self.open_growth < 1:
            raise ValueError("open_growth must be 1 or more")
        if self.open_max_s < self.open_s:
            raise ValueError("open_max_s must be at least open_s")

    @property
    def calls_needed(self) -> int:
        """Calls that a rate needs. A count window can never hold more than its size."""
        return min(self.minimum_calls, self.window_size) if self.window == "count" else self.minimum_calls

    @property
    def answer_due_s(self) -> float:
        """When a call that is not slow has been answered."""
        return min(self.slow_call_s, self.open_s)

    @property
    def probes_needed(self) -> int:
        """Answered probes that decide a half-open breaker."""
        return min(self.minimum_calls, self.permitted_probes)


@dataclass(slots=True)
class Permit:
    """Leave to make one call. Answer it exactly once."""

    generation: int
    answered: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """No call now: not one byte is to be sent. `retry_after_s` > 0 says when asking again makes sense."""

    retry_after_s: float
    state: State


class BreakerListener(Protocol):
    """Is told after the fact, when the breaker is settled; must not raise."""

    def on_transition(self, old: State, new: State, cause: Cause) -> None: ...

    def on_would_open(self, cause: Cause) -> None:
        """Only in OBSERVE, and once per reason: but for that mode it would have opened."""


class BreakerSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A breaker for an operator's eyes. The rates are None until `calls_needed` calls are in the window."""

    state: State
    mode: Mode
    since_s: float
    cause: str
    retry_after_s: float | None
    calls: int
    failed: int
    slow: int
    failure_rate: float | None
    slow_call_rate: float | None
    consecutive_failures: int
    in_flight: int
    rejected: int
    late: int
    transitions: int


_AIOBREAKER: Final = {
    CircuitBreakerState.CLOSED: State.CLOSED,
    CircuitBreakerState.OPEN: State.OPEN,
    CircuitBreakerState.HALF_OPEN: State.HALF_OPEN,
}
_FORCED: Final = {
    Mode.FORCED_OPEN: State.FORCED_OPEN,
    Mode.FORCED_CLOSED: State.FORCED_CLOSED,
    Mode.OBSERVE: State.OBSERVE,
}

_News: TypeAlias = tuple[State, State, Cause]


class Breaker:
    """One per peer and kind of call. Assumes one thread, and `now_s` from one monotonic clock."""

    def __init__(
        self,
        settings: BreakerSettings,
        random: Callable[[], float],
        *,
        now_s: float = 0.0,
        listeners: tuple[BreakerListener, ...] = (),
    ) -> None:
        self.settings = settings
        self._random = random
        self._listeners = listeners
        self._mode = Mode.AUTO
        self._state = State.CLOSED
        self._cause = Cause(Reason.RESET, "new")
        self._news: list[_News] = []
        self._would_open: dict[Reason, Cause] = {}

        self._now_s = now_s
        self._since_s = now_s
        self._open_s = settings.open_s
        self._reopen_at_s = now_s
        self._last_probe_s = now_s

        self._generation = 0
        self._transitions = 0
        self._in_flight = 0
        self._rejected = 0
        self._late = 0
        self._probes_left = 0
        self._ramp = 0
        self._window = self._new_window()
        self._needed = settings.calls_needed

        self._circuit = Circuit(settings.consecutive_failures, self._entered)

    # ── deciding ────────────────────────────────────────────────────────────

    @property
    def state(self) -> State:
        """As of the last call: an open breaker stays OPEN past its time until somebody asks for a permit."""
        return self._state

    @property
    def mode(self) -> Mode:
        return self._mode

    def acquire(self, now_s: float) -> Permit | Rejected:
        """Leave for one call, or when to ask again. The first to ask after the open time gets the probe."""
        if self._state is State.CLOSED and not self._ramp:
            return self._permit(now_s)
        self._now_s = now_s
        if self._state is State.OPEN and now_s >= self._reopen_at_s:
            detail = f"open for {now_s - self._since_s:.1f} s"
            self._move(Cause(Reason.OPEN_TIME_OVER, detail), self._circuit.half_open)
        elif self._probe_is_lost(now_s):
            detail = f"no answer to a probe for {now_s - self._last_probe_s:.1f} s"
            self._move(Cause(Reason.PROBE_LOST, detail), self._circuit.open)
        refusal = self.refusal(now_s)
        answer = self._permit(now_s) if refusal is None else refusal
        self._rejected += refusal is not None
        self._tell()
        return answer

    def refusal(self, now_s: float) -> Rejected | None:
        """What `acquire` would refuse with, or None; changes nothing."""
        match self._state:
            case State.CLOSED:
                waits = self._ramp and self._in_flight >= self._ramp and self._ramp_runs(now_s)
                return Rejected(self.settings.answer_due_s, State.CLOSED) if waits else None
            case State.OPEN if now_s < self._reopen_at_s:
                return Rejected(self._reopen_at_s - now_s, State.OPEN)
            case State.HALF_OPEN if self._probes_left == 0:
                return Rejected(self._probe_answered_in_s(now_s), State.HALF_OPEN)
            case State.FORCED_OPEN:
                return Rejected(self.settings.open_s, State.FORCED_OPEN)
            case _:
                return None

    def is_current(self, permit: Permit) -> bool:
        """False once the breaker moved on: ask anew before sending, the answer would not count anyway."""
        return permit.generation == self._generation

    def _permit(self, now_s: float) -> Permit:
        self._in_flight += 1
        if self._state is State.HALF_OPEN:
            self._probes_left -= 1
            self._last_probe_s = now_s
        return Permit(self._generation)

    def _probe_is_lost(self, now_s: float) -> bool:
        # A caller that vanishes with its permit would keep the breaker half-open for ever
        # (resilience4j#903 is people meeting just that).
        if self._state is not State.HALF_OPEN or self._probes_left > 0:
            return False
        return now_s - self._last_probe_s >= self.settings.probe_lost_s

    def _probe_answered_in_s(self, now_s: float) -> float:
        # A probe that passes is answered by then. One that is late already will most likely open the breaker.
        left_s = self._last_probe_s + self.settings.answer_due_s - now_s
        return left_s if left_s > 0 else self._open_s

    def _ramp_runs(self, now_s: float) -> bool:
        # Bounded in time, lest permits that nobody answers hold the ramp for ever.
        return now_s - self._since_s < self.settings.probe_lost_s

    # ── learning ────────────────────────────────────────────────────────────

    def on_success(self, permit: Permit, duration_s: float, now_s: float) -> None:
        """The peer answered. This can open it too: it may be slow, or complete the minimum of calls."""
        self._learn(permit, None, duration_s, now_s)

    def on_failure(self, permit: Permit, error: Error, duration_s: float, now_s: float) -> None:
        """The peer failed or did not answer in time. `error` is named in the cause, never kept or raised."""
        self._learn(permit, error, duration_s, now_s)

    def on_ignored(self, permit: Permit, now_s: float) -> None:
        """Neither: a business error, a rejection of our own, a cancellation. Gives a probe's permit back."""
        if self._answer(permit) and self._state is State.HALF_OPEN:
            self._probes_left += 1

    def _answer(self, permit: Permit) -> bool:
        if permit.answered:
            raise RuntimeError("a permit is answered once: this one was answered before")
        permit.answered = True
        if not self.is_current(permit):
            self._late += 1
            return False
        self._in_flight -= 1
        return True

    def _learn(self, permit: Permit, error: Error | None, duration_s: float, now_s: float) -> None:
        if not self._answer(permit):
            return
        self._now_s = now_s
        slow = duration_s > self.settings.slow_call_s
        match self._state:
            case State.CLOSED:
                self._learn_closed(error, slow, now_s)
            case State.HALF_OPEN:
                self._learn_probe(error, slow, now_s)
            case State.OBSERVE:
                self._learn_observing(error, slow, now_s)
            case _:
                pass  # FORCED_CLOSED counts nothing; OPEN and FORCED_OPEN gave no permit of this generation
        self._tell()

    def _learn_closed(self, error: Error | None, slow: bool, now_s: float) -> None:
        totals = self._window.record(now_s, failed=error is not None, slow=slow)
        exceeded = self._exceeded(totals)
        if exceeded is not None:
            self._move(exceeded, self._circuit.open)
        elif error is not None:
            self._move(self._consecutive(error), self._circuit.told_failure)
        else:
            if self._circuit.counted.counter:
                self._circuit.told_success()  # ends the row; without one it changes nothing
            self._widen_ramp()

    def _learn_probe(self, error: Error | None, slow: bool, now_s: float) -> None:
        totals = self._window.record(now_s, failed=error is not None, slow=slow)
        if totals.calls < self._needed:
            return
        exceeded = self._exceeded(totals)
        if exceeded is None:
            detail = f"{totals.calls - totals.failed} of {totals.calls} probes passed"
            self._move(Cause(Reason.PROBES_PASSED, detail), self._circuit.told_success)
            return
        reason = Reason.PROBES_FAILED if exceeded.reason is Reason.FAILURE_RATE else Reason.PROBES_SLOW
        self._move(Cause(reason, exceeded.detail + _naming(error)), self._circuit.told_failure)

    def _learn_observing(self, error: Error | None, slow: bool, now_s: float) -> None:
        totals = self._window.record(now_s, failed=error is not None, slow=slow)
        if error is None:
            self._circuit.counted.reset_counter()
        else:
            self._circuit.counted.increment_counter()
        cause = self._exceeded(totals)
        if cause is None and error is not None and self._circuit.counted.counter >= self._circuit.fail_max:
            cause = self._consecutive(error)
        if cause is not None and cause.reason not in self._would_open:
            self._would_open[cause.reason] = cause
            for listener in self._listeners:
                listener.on_would_open(cause)

    def _exceeded(self, totals: Totals) -> Cause | None:
        """The rate at or above its threshold, if enough calls say so. Failures come before slowness."""
        if totals.calls < self._needed:
            return None
        if totals.failure_rate >= self.settings.failure_rate:
            return Cause(Reason.FAILURE_RATE, f"{totals.failed} of {totals.calls} calls failed")
        if totals.slow_call_rate >= self.settings.slow_call_rate:
            detail = f"{totals.slow} of {totals.calls} calls took more than {self.settings.slow_call_s:g} s"
            return Cause(Reason.SLOW_CALL_RATE, detail)
        return None

    def _consecutive(self, error: Error) -> Cause:
        detail = f"{self.settings.consecutive_failures} failures in a row{_naming(error)}"
        return Cause(Reason.CONSECUTIVE_FAILURES, detail)

    def _widen_ramp(self) -> None:
        if self._ramp:
            self._ramp = self._ramp + 1 if self._ramp < self.settings.ramp_max else 0

    # ── moving ────────────────────────────────────────────────────────────

    def force(self, mode: Mode, now_s: float) -> None:
        """Holds the breaker in a mode; AUTO begins anew, closed. Its present mode changes nothing."""
        if mode is self._mode:
            return
        self._now_s = now_s
        self._mode = mode
        step = self._circuit.open if mode is Mode.FORCED_OPEN else self._circuit.close
        self._move(Cause(Reason.FORCED, f"an operator asked for {mode}"), step)
        self._tell()

    def reset(self, now_s: float) -> None:
        """Closed, and everything forgotten; ends a forced mode."""
        self._now_s = now_s
        self._mode = Mode.AUTO
        self._move(Cause(Reason.RESET, "an operator reset it"), self._circuit.close)
        self._tell()

    def _move(self, cause: Cause, step: Callable[[], None]) -> None:
        """Lets aiobreaker take a step. If that changes its state, `_entered` runs and `cause` is why."""
        before, self._cause = self._cause, cause
        generation = self._generation
        step()
        if generation == self._generation:
            self._cause = before  # it did not move: a failure that was not one too many

    def _entered(self, new: CircuitBreakerState) -> None:
        """aiobreaker moved: a new generation with counts of its own."""
        old, self._state = self._state, _FORCED.get(self._mode) or _AIOBREAKER[new]
        self._generation += 1
        self._in_flight = 0
        self._since_s = self._now_s
        self._would_open.clear()
        match self._state:
            case State.OPEN:
                self._begin_open(reopened=old is State.HALF_OPEN)
                # The window stays: it shows why.
            case State.HALF_OPEN:
                self._probes_left = self.settings.permitted_probes
                self._window = CountWindow(self.settings.permitted_probes)
                self._needed = self.settings.probes_needed
            case _:
                self._ramp = self.settings.ramp_start if old is State.HALF_OPEN else 0
                self._window = self._new_window()
                self._needed = self.settings.calls_needed
        if old is not self._state:
            self._transitions += 1
            self._news.append((old, self._state, self._cause))

    def _begin_open(self, *, reopened: bool) -> None:
        settings = self.settings
        grown_s = self._open_s * settings.open_growth if reopened else settings.open_s
        self._open_s = min(grown_s, settings.open_max_s)
        self._reopen_at_s = self._now_s + self._open_s * (1 + settings.open_jitter * self._random())

    def _new_window(self) -> CallWindow:
        size = self.settings.window_size
        return CountWindow(size) if self.settings.window == "count" else TimeWindow(size)

    def _tell(self) -> None:
        # Only now that the breaker is settled: a listener may read it, and aiobreaker is not in mid-move.
        while self._news:
            old, new, cause = self._news.pop(0)
            for listener in self._listeners:
                listener.on_transition(old, new, cause)

    # ── showing ────────────────────────────────────────────────────────────

    def snapshot(self, now_s: float) -> BreakerSnapshot:
        totals = self._window.totals(now_s)
        enough = totals.calls >= self._needed
        refusal = self.refusal(now_s)
        return BreakerSnapshot(
            state=self._state,
            mode=self._mode,
            since_s=max(0.0, now_s - self._since_s),
            cause=self._cause.detail,
            retry_after_s=refusal.retry_after_s if refusal else None,
            calls=totals.calls,
            failed=totals.failed,
            slow=totals.slow,
            failure_rate=totals.failure_rate if enough else None,
            slow_call_rate=totals.slow_call_rate if enough else None,
            consecutive_failures=self._circuit.counted.counter,
            in_flight=self._in_flight,
            rejected=self._rejected,
            late=self._late,
            transitions=self._transitions,
        )

    def __repr__(self) -> str:
        return f"<Breaker {self._state} generation {self._generation}: {self._cause.detail}>"


def _naming(error: Error | None) -> str:
    """The kind of the last error. Its message stays out: it may quote what must not be logged."""
    if error is None:
        return ""
    return f", the last: {error if isinstance(error, str) else type(error).__name__}"
