"""Calls to peers as every service makes them: the client's attempt inside the policies of ``tally.resilience``.

One policy per peer and kind of call (reads don't open writes; the settler has its own), the same for every call
site. What happens is counted and, where a breaker moves, logged with its cause.

Assumes that everything sent is idempotent: the protocol's messages all are.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping

import structlog

from tally.chassis.client import Client, NotSent, Outcome, Rejected, Reply, Silent
from tally.chassis.clock import Clock
from tally.chassis.problems import CODES
from tally.chassis.signals import Signals
from tally.resilience import policy, verdict
from tally.resilience.breaker import Cause, Mode, State
from tally.resilience.deadline import Deadline
from tally.resilience.hedge import Hedge, HedgeSettings, hedged
from tally.resilience.policy import Policies, PolicySettings
from tally.resilience.retry import Failure
from tally.resilience.verdict import Judgement, TimedOut, Verdict, Withheld

log = structlog.get_logger()

#: Problems by which a participant says that it has surely done nothing, though it is in trouble.
NOTHING_DONE = frozenset({"overloaded", "service-unavailable", "contended"})
#: And these: given before the request itself is looked at.
TURNED_AWAY = frozenset({"unauthenticated", "forbidden", "no-such-path", "body-too-large"})
#: The kind of call that may be sent twice for speed.
READ = "read"


class Calls:
    """Calls to the peers of one service, by name, with policies."""

    def __init__(
        self,
        client: Client,
        signals: Signals,
        clock: Clock,
        *,
        settings: PolicySettings | None = None,
        hedge_reads: bool = False,
        overrides: Mapping[tuple[str, str], PolicySettings] | None = None,
    ) -> None:
        self._client = client
        self._clock = clock
        self._signalled = _Signalled(signals)
        self.policies = Policies(
            settings or PolicySettings(),
            clock=clock.monotonic_s,
            random=random.random,
            observer=self._signalled,
            overrides=overrides,
        )
        self._signals = signals
        self._hedge_settings = HedgeSettings(enabled=hedge_reads)
        self._hedges: dict[str, Hedge] = {}
        # Since when each peer has not answered a call, by the wall clock.
        self._silent_since_ms: dict[str, int] = {}

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        """POST ``body`` to ``peer`` within the deadline; never raises but for being cancelled."""
        return await self._called(peer, kind, functools.partial(self._client.post, peer, path, body), deadline)

    async def get(self, peer: str, path: str, *, kind: str = READ, deadline: Deadline) -> Outcome:
        """The same for a question that has no body."""
        return await self._called(peer, kind, functools.partial(self._client.get, peer, path), deadline)

    async def _called(
        self, peer: str, kind: str, send: Callable[..., Awaitable[Outcome]], deadline: Deadline
    ) -> Outcome:
        async def attempt(within_s: float) -> Outcome:
            own = Deadline.after(within_s, self._clock.monotonic_s())
            call = functools.partial(send, kind=kind, deadline=own)
            if kind != READ or not self._hedge_settings.enabled:
                return await call()
            return await self._hedged(peer, call)

        outcome = await self._within_policy(peer, kind, attempt, deadline)
        if isinstance(outcome, Reply | Rejected):
            self._silent_since_ms.pop(peer, None)
        else:
            self._silent_since_ms.setdefault(peer, self._clock.now_ms())
        return outcome

    async def _within_policy(
        self, peer: str, kind: str, attempt: Callable[[float], Awaitable[Outcome]], deadline: Deadline
    ) -> Outcome:
        policy = self.policies.get(peer, kind)
        result = await policy.call(attempt, deadline=deadline, idempotent=True, classify=_classify)
        match result:
            case Withheld(failure=failure, retry_after_s=retry_after_s):
                return NotSent(failure.value, retry_after_s)
            case TimedOut():
                return Silent("timeout")
            case _:
                return result

    async def _hedged(self, peer: str, call: Callable[[], Awaitable[Outcome]]) -> Outcome:
        hedge = self._hedges.setdefault(peer, Hedge(self._hedge_settings))
        copies = itertools.count(1)

        def copy() -> Awaitable[Outcome]:
            if next(copies) > 1:
                self._signals.hedges_total(peer).inc()
                self._signals.event("hedge", peer=peer)
            return call()

        return await hedged(copy, hedge, clock=self._clock.monotonic_s, accept=_is_reply)

    def silent_since_ms(self, peer: str) -> int | None:
        """Since when (Unix milliseconds) ``peer`` has answered no call; None if the last one was answered."""
        return self._silent_since_ms.get(peer)

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        """Seconds until ``peer`` will be tried again, if a call begun now would not be sent; else None.

        Whoever is told so does not call, which counts as a call that was not made."""
        policy = self.policies.get(peer, kind)
        refusal = policy.refusal()
        if refusal is None:
            return None
        if refusal.failure is Failure.BREAKER_OPEN:
            self._signalled.breaker_rejected(peer, kind, policy.breaker.state)
        else:
            self._signalled.bulkhead_rejected(peer, kind)
        return refusal.retry_after_s

    def force(self, peer: str, kind: str, mode: Mode) -> bool:
        """Hold a breaker in a mode, or free it; False if there is none."""
        return self.policies.force(peer, kind, mode)

    def snapshot(self) -> list[policy.PolicySnapshot]:
        """How all policies stand."""
        return self.policies.snapshot()

    def announce(self, peer: str, kinds: list[str]) -> None:
        """Make the policies and metrics of a peer exist before its first call; gauges are read when scraped."""
        signals, now_s = self._signals, self._clock.monotonic_s
        states = [state.value for state in State]
        signals.breaker_transitions_total.initialise(peer=[peer], kind=kinds, from_state=states, to_state=states)
        signals.breaker_rejections_total.initialise(peer=[peer], kind=kinds)
        signals.bulkhead_rejections_total.initialise(peer=[peer], kind=kinds)
        signals.retries_total.initialise(peer=[peer], reason=[failure.value for failure in Failure])
        signals.retries_refused_total.initialise(peer=[peer])
        signals.hedges_total.initialise(peer=[peer])
        for kind in kinds:
            shared = self.policies.get(peer, kind)
            signals.breaker_state(peer, kind).set(_STATE_NUMBERS[shared.breaker.state])
        bulkhead, budget = shared.bulkhead, shared.budget
        signals.bulkhead_in_use(peer).set_function(lambda: bulkhead.in_use)
        signals.bulkhead_waiting(peer).set_function(lambda: bulkhead.queued)
        signals.retry_budget_ratio(peer).set_function(lambda: budget.ratio(now_s()))


def _is_reply(outcome: Outcome) -> bool:
    return isinstance(outcome, Reply)


def _classify(outcome: Outcome) -> Verdict:
    match outcome:
        case Reply():
            return verdict.SUCCESS
        case NotSent():
            return verdict.UNREACHABLE
        case Silent():
            return verdict.SILENT
        case Rejected(code="outcome-unknown" | "deadline-exceeded"):
            return verdict.SILENT
        case Rejected(code=code, retry_after_s=retry_after_s) if code in NOTHING_DONE:
            return verdict.overloaded(retry_after_s, nothing_done=True)
        case Rejected(code=code) if code in TURNED_AWAY:
            return Verdict(Judgement.BUSINESS, nothing_done=True)
        case Rejected(status=status) if status >= CODES["internal"].status:
            return verdict.BROKEN
        case Rejected():
            return Verdict(Judgement.BUSINESS)


_STATE_NUMBERS = {
    State.CLOSED: 0,
    State.HALF_OPEN: 1,
    State.OPEN: 2,
    State.FORCED_OPEN: 3,
    State.FORCED_CLOSED: 4,
    State.OBSERVE: 5,
}


class _Signalled:
    """What the policies tell, as metrics, log lines, and events of the span that the call is made for."""

    def __init__(self, signals: Signals) -> None:
        self._signals = signals

    def attempted(self, peer: str, kind: str, outcome: str, duration_s: float) -> None:
        """The client has measured it already."""

    def retried(self, peer: str, kind: str, failure: Failure, delay_s: float) -> None:
        self._signals.retries_total(peer, failure.value).inc()
        self._signals.event("retry", peer=peer, kind=kind, reason=failure.value, delay_s=delay_s)

    def budget_exhausted(self, peer: str, kind: str) -> None:
        self._signals.retries_refused_total(peer).inc()
        self._signals.event("retry-refused", peer=peer, kind=kind)

    def breaker_moved(self, peer: str, kind: str, old: State, new: State, cause: Cause) -> None:
        self._signals.breaker_transitions_total(peer, kind, old.value, new.value).inc()
        self._signals.breaker_state(peer, kind).set(_STATE_NUMBERS[new])
        say = log.warning if new is State.OPEN else log.info
        why = {"cause": cause.reason.value, "detail": cause.detail}
        say("breaker moved", peer=peer, kind=kind, was=old.value, now=new.value, **why)
        self._signals.event("breaker", peer=peer, kind=kind, from_state=old.value, to_state=new.value, **why)

    def breaker_would_open(self, peer: str, kind: str, cause: Cause) -> None:
        log.warning("breaker would open, but only observes", peer=peer, kind=kind, cause=cause.reason.value)

    def breaker_rejected(self, peer: str, kind: str, state: State) -> None:
        self._signals.breaker_rejections_total(peer, kind).inc()
        self._signals.event("withheld", peer=peer, kind=kind, reason=Failure.BREAKER_OPEN.value, state=state.value)

    def bulkhead_queued(self, peer: str, kind: str, waited_s: float) -> None:
        """Waiting shows in the gauge."""

    def bulkhead_rejected(self, peer: str, kind: str) -> None:
        self._signals.bulkhead_rejections_total(peer, kind).inc()
        self._signals.event("withheld", peer=peer, kind=kind, reason=Failure.BULKHEAD_FULL.value)
