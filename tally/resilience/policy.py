"""All of it around one outgoing call: deadline → retry → breaker → bulkhead → attempt with its time limit.

The order is resilience4j's default (retry around breaker around bulkhead) with the deadline around
everything, and the time limit innermost: inside the breaker, so that a time-out counts, and inside the
bulkhead, so that a wait for a place is nobody's slowness. The rules that only the whole can hold:

- An outcome is a value. What the attempt returns is given back as it is, what it raises is raised as it is;
  `Withheld` says that nothing was sent, `TimedOut` that nobody knows.
- `Withheld` is only ever said if *no* attempt of this call was begun. Where an earlier attempt may have
  been carried out, its outcome stands against a later one that proves only that nothing was done *that*
  time: "nothing was sent" would be a lie, and a caller undoes things on the strength of it.
- A rejection by the bulkhead is not the peer's failure. Who waited for a place asks the breaker again if
  that moved meanwhile: else a queue full of calls would each try a peer known to be down.
- A time-out shorter than `fair_timeout_s`, cut by the caller's deadline, says more of the caller than of
  the peer, and counts for neither: a client that gives everything 5 ms must not open the breaker for all.

One policy per peer and kind of call; `Policies` hands them out. One layer only: an attempt must not hold
another call that retries.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from tally.resilience.breaker import (
    Breaker,
    BreakerSettings,
    BreakerSnapshot,
    Cause,
    Mode,
    Permit,
    Rejected,
    State,
)
from tally.resilience.budget import BudgetSettings, RetryBudget
from tally.resilience.bulkhead import Bulkhead, BulkheadSettings
from tally.resilience.deadline import Deadline
from tally.resilience.observer import Observer, Unobserved
from tally.resilience.retry import Failure, RetrySettings, next_delay
from tally.resilience.verdict import SILENT, Judgement, TimedOut, Verdict, Withheld, verdict_of_error

T = TypeVar("T")

Clock: TypeAlias = Callable[[], float]
Random: TypeAlias = Callable[[], float]
Attempt: TypeAlias = Callable[[float], Awaitable[T]]  # it is given the seconds that it has

# Timers set for one instant fire this close together.
_SAME_INSTANT_S: Final = 0.005


class PolicySettings(msgspec.Struct, frozen=True, kw_only=True):
    """The defaults fit a request deadline of 2 s: two attempts at a peer that hangs, and an answer."""

    attempt_timeout_s: float = 1.0
    fair_timeout_s: float = 0.1
    retry: RetrySettings = RetrySettings()
    budget: BudgetSettings = BudgetSettings()
    breaker: BreakerSettings = BreakerSettings()
    bulkhead: BulkheadSettings = BulkheadSettings()

    def __post_init__(self) -> None:
        if not self.attempt_timeout_s > 0:
            raise ValueError("attempt_timeout_s must be above 0")
        if not 0 <= self.fair_timeout_s <= self.attempt_timeout_s:
            raise ValueError("fair_timeout_s must be from 0 to attempt_timeout_s")


@dataclass(frozen=True, slots=True)
class _Made(Generic[T]):
    """One attempt that was begun: what it returned or raised, and what that means."""

    outcome: T | TimedOut | None
    error: Exception | None
    verdict: Verdict

    def give(self) -> T | TimedOut:
        if self.error is not None:
            raise self.error
        return self.outcome  # type: ignore[return-value]  # None only beside an error, or where T allows it

    def after(self, earlier: _Made[T] | None) -> _Made[T]:
        """Which of the two speaks for the call: an unknown effect outlives a proof about another attempt."""
        if earlier is not None and earlier.verdict.effect_unknown and self.verdict.nothing_done:
            return earlier
        return self


@dataclass(frozen=True, slots=True)
class _Relay:
    """Adds to a breaker's news whose breaker it is."""

    peer: str
    kind: str
    observer: Observer

    def on_transition(self, old: State, new: State, cause: Cause) -> None:
        self.observer.breaker_moved(self.peer, self.kind, old, new, cause)

    def on_would_open(self, cause: Cause) -> None:
        self.observer.breaker_would_open(self.peer, self.kind, cause)


# ── one peer, one kind of call ─────────────────────────────────────────────────────────────────


class PolicySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """For the admin endpoint and the gauges. Bulkhead and retry figures are the peer's, over all kinds."""

    peer: str
    kind: str
    breaker: BreakerSnapshot
    bulkhead_in_use: int
    bulkhead_queued: int
    bulkhead_rejected: int
    retry_ratio: float
    retry_balance: float


class Policy:
    """How calls of one kind to one peer are made. `budget` and `bulkhead` are shared by its policies."""

    def __init__(
        self,
        peer: str,
        kind: str,
        settings: PolicySettings,
        *,
        budget: RetryBudget,
        bulkhead: Bulkhead,
        observer: Observer,
        clock: Clock,
        random: Random,
    ) -> None:
        self.peer = peer
        self.kind = kind
        self.settings = settings
        self.bulkhead = bulkhead
        self.budget = budget
        self._observer = observer
        self._clock = clock
        self._random = random
        relay = _Relay(peer, kind, observer)
        self.breaker = Breaker(settings.breaker, random, now_s=clock(), listeners=(relay,))

    async def call(
        self,
        attempt: Attempt[T],
        *,
        deadline: Deadline,
        idempotent: bool,
        classify: Callable[[T], Verdict],
    ) -> T | Withheld | TimedOut:
        """Makes the call, and makes it again where that is allowed and worth it.

        `attempt` is given the seconds it has, and is cut off after them.
        """
        spokesman: _Made[T] | None = None
        attempts = 0
        while True:
            entered = await self._enter(deadline)
            if isinstance(entered, Withheld):
                return entered if spokesman is None else spokesman.give()
            if attempts == 0:
                self.budget.called(self._clock())  # only what is sent earns retries
            made = await self._make(entered, attempt, deadline, classify)
            attempts += 1
            spokesman = made.after(spokesman)
            delay_s = self._retry_in(made.verdict, attempts, idempotent, deadline)
            if delay_s is None:
                return spokesman.give()
            await asyncio.sleep(delay_s)

    # ── may it be sent? ──────────────────────────────────────────────────────────────────────

    def refusal(self) -> Withheld | None:
        """Why a call begun now would be withheld, or None; changes nothing."""
        rejected = self.breaker.refusal(self._clock())
        if rejected is not None:
            return self._withheld(Failure.BREAKER_OPEN, rejected.retry_after_s)
        if self.bulkhead.full:
            return self._withheld(Failure.BULKHEAD_FULL, self.bulkhead.settings.wait_max_s)
        return None

    def _acquire(self, now_s: float) -> Permit | Withheld:
        permit = self.breaker.acquire(now_s)
        if isinstance(permit, Rejected):
            self._observer.breaker_rejected(self.peer, self.kind, permit.state)
            return self._withheld(Failure.BREAKER_OPEN, permit.retry_after_s)
        return permit

    async def _enter(self, deadline: Deadline) -> Permit | Withheld:
        """A permit and a place in the bulkhead, or neither."""
        now_s = self._clock()
        if deadline.expired(now_s):
            return self._withheld(Failure.DEADLINE_PASSED, 0.0)
        leave = self._acquire(now_s)
        if isinstance(leave, Withheld) or self.bulkhead.try_enter():
            return leave
        return await self._queue(deadline, leave, now_s)

    async def _queue(self, deadline: Deadline, permit: Permit, came_s: float) -> Permit | Withheld:
        try:
            entered = await self.bulkhead.enter(deadline.left_s(came_s))
        except BaseException:
            self.breaker.on_ignored(permit, self._clock())
            raise
        now_s = self._clock()
        if not entered:
            self._observer.bulkhead_rejected(self.peer, self.kind)
            late = deadline.expired(now_s)
            return self._turn_back(permit, Failure.DEADLINE_PASSED if late else Failure.BULKHEAD_FULL, now_s)
        self._observer.bulkhead_queued(self.peer, self.kind, now_s - came_s)
        still = self._still_welcome(deadline, permit, now_s)
        if isinstance(still, Withheld):
            self.bulkhead.leave()
        return still

    def _still_welcome(self, deadline: Deadline, permit: Permit, now_s: float) -> Permit | Withheld:
        if deadline.expired(now_s):
            return self._turn_back(permit, Failure.DEADLINE_PASSED, now_s)
        if self.breaker.is_current(permit):
            return permit
        self.breaker.on_ignored(permit, now_s)
        return self._acquire(now_s)

    def _turn_back(self, permit: Permit, failure: Failure, now_s: float) -> Withheld:
        self.breaker.on_ignored(permit, now_s)
        full = failure is Failure.BULKHEAD_FULL
        return self._withheld(failure, self.bulkhead.settings.wait_max_s if full else 0.0)

    def _withheld(self, failure: Failure, retry_after_s: float) -> Withheld:
        return Withheld(self.peer, self.kind, failure, retry_after_s)

    # ── one attempt ──────────────────────────────────────────────────────────────────────────

    async def _make(
        self,
        permit: Permit,
        attempt: Attempt[T],
        deadline: Deadline,
        classify: Callable[[T], Verdict],
    ) -> _Made[T]:
        begun_s = self._clock()
        timeout_s = min(self.settings.attempt_timeout_s, deadline.left_s(begun_s))
        try:
            made = await self._timed(attempt, timeout_s, classify)
        except asyncio.CancelledError:
            self._tell_of_cancellation(permit, deadline, timeout_s, begun_s)
            raise
        except BaseException:  # a fault of our own, in `classify`: nothing is known about the peer
            self.breaker.on_ignored(permit, self._clock())
            raise
        finally:
            self.bulkhead.leave()
        now_s = self._clock()
        self._tell_breaker(permit, made.verdict, timeout_s, now_s - begun_s, now_s)
        outcome = made.verdict.failure or made.verdict.judgement
        self._observer.attempted(self.peer, self.kind, outcome, now_s - begun_s)
        return made

    async def _timed(
        self,
        attempt: Attempt[T],
        timeout_s: float,
        classify: Callable[[T], Verdict],
    ) -> _Made[T]:
        try:
            async with asyncio.timeout(timeout_s) as limit:
                value = await attempt(timeout_s)
        except TimeoutError as error:
            if limit.expired():
                return _Made(TimedOut(self.peer, self.kind, timeout_s), None, SILENT)
            return _Made(None, error, verdict_of_error(error))
        except Exception as error:
            return _Made(None, error, verdict_of_error(error))
        return _Made(value, None, classify(value))

    def _tell_breaker(
        self, permit: Permit, verdict: Verdict, timeout_s: float, duration_s: float, now_s: float
    ) -> None:
        cut_short = verdict.failure is Failure.SILENT and timeout_s < self.settings.fair_timeout_s
        if verdict.judgement is Judgement.SUCCESS:
            self.breaker.on_success(permit, duration_s, now_s)
        elif verdict.judgement is Judgement.FAILURE and not cut_short:
            self.breaker.on_failure(permit, verdict.failure or Failure.BROKEN, duration_s, now_s)
        else:
            self.breaker.on_ignored(permit, now_s)

    def _tell_of_cancellation(self, permit: Permit, deadline: Deadline, timeout_s: float, begun_s: float) -> None:
        # Whoever waits for us keeps the same deadline, and may cancel us a moment before our own time limit
        # strikes. That is a time-out all the same; only an earlier cancellation is a change of mind.
        now_s = self._clock()
        if deadline.left_s(now_s) < _SAME_INSTANT_S:
            self._tell_breaker(permit, SILENT, timeout_s, now_s - begun_s, now_s)
        else:
            self.breaker.on_ignored(permit, now_s)

    # ── another one? ─────────────────────────────────────────────────────────────────────────

    def _retry_in(self, verdict: Verdict, attempts: int, idempotent: bool, deadline: Deadline) -> float | None:
        if verdict.failure is None:
            return None
        now_s = self._clock()
        delay_s = next_delay(
            self.settings.retry,
            attempt=attempts,
            failure=verdict.failure,
            idempotent=idempotent,
            retry_after_s=verdict.retry_after_s,
            deadline=deadline,
            now_s=now_s,
            random=self._random,
        )
        if delay_s is None or self.breaker.refusal(now_s + delay_s) is not None:
            return None
        if not self.budget.try_spend(now_s):
            self._observer.budget_exhausted(self.peer, self.kind)
            return None
        self._observer.retried(self.peer, self.kind, verdict.failure, delay_s)
        return delay_s

    def snapshot(self) -> PolicySnapshot:
        now_s = self._clock()
        return PolicySnapshot(
            peer=self.peer,
            kind=self.kind,
            breaker=self.breaker.snapshot(now_s),
            bulkhead_in_use=self.bulkhead.in_use,
            bulkhead_queued=self.bulkhead.queued,
            bulkhead_rejected=self.bulkhead.rejected,
            retry_ratio=self.budget.ratio(now_s),
            retry_balance=self.budget.balance(now_s),
        )

    def __repr__(self) -> str:
        return f"<Policy {self.peer}/{self.kind} breaker={self.breaker.state} {self.bulkhead!r}>"


# ── all of them ────────────────────────────────────────────────────────────────────────────────


class Policies:
    """Hands out the one policy of each peer and kind. `overrides` has settings for some (peer, kind).

    Budget and bulkhead belong to a peer, not to a kind of call: they are always those of `settings`.
    """

    def __init__(
        self,
        settings: PolicySettings,
        *,
        clock: Clock,
        random: Random,
        observer: Observer | None = None,
        overrides: Mapping[tuple[str, str], PolicySettings] | None = None,
    ) -> None:
        self._settings = settings
        self._overrides = dict(overrides or {})
        self._observer = observer or Unobserved()
        self._clock = clock
        self._random = random
        self._policies: dict[tuple[str, str], Policy] = {}
        self._budgets: dict[str, RetryBudget] = {}
        self._bulkheads: dict[str, Bulkhead] = {}

    def get(self, peer: str, kind: str) -> Policy:
        """Both names are metric labels: from a small fixed set, never from a request."""
        policy = self._policies.get((peer, kind))
        return policy if policy is not None else self._make(peer, kind)

    def force(self, peer: str, kind: str, mode: Mode) -> bool:
        """Holds one breaker in a mode (AUTO frees it); False if there is no such policy."""
        policy = self._policies.get((peer, kind))
        if policy is None:
            return False
        policy.breaker.force(mode, self._clock())
        return True

    def snapshot(self) -> list[PolicySnapshot]:
        """All that were handed out, by peer and kind."""
        return [self._policies[key].snapshot() for key in sorted(self._policies)]

    def _make(self, peer: str, kind: str) -> Policy:
        if peer not in self._bulkheads:
            self._budgets[peer] = RetryBudget(self._settings.budget)
            self._bulkheads[peer] = Bulkhead(self._settings.bulkhead)
        policy = self._policies[peer, kind] = Policy(
            peer,
            kind,
            self._overrides.get((peer, kind), self._settings),
            budget=self._budgets[peer],
            bulkhead=self._bulkheads[peer],
            observer=self._observer,
            clock=self._clock,
            random=self._random,
        )
        return policy
