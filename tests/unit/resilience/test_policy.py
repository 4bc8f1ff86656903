from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.breaker import BreakerSettings, Cause, Mode, Reason, State
from tally.resilience.budget import BudgetSettings
from tally.resilience.bulkhead import BulkheadSettings
from tally.resilience.deadline import Deadline
from tally.resilience.observer import Unobserved
from tally.resilience.policy import Policies, Policy, PolicySettings
from tally.resilience.retry import Failure, RetrySettings
from tally.resilience.verdict import (
    BROKEN,
    BUSINESS,
    SILENT,
    SUCCESS,
    UNREACHABLE,
    TimedOut,
    Verdict,
    Withheld,
    overloaded,
    verdict_of_error,
)

from .virtual_time import run_virtually

exact = settings(deadline=None, derandomize=True)

T = TypeVar("T")
Virtual = Callable[[Callable[[], Awaitable[T]]], T]

PLENTY = BudgetSettings(ratio=1.0, floor_per_s=100.0)
SETTINGS = PolicySettings(
    attempt_timeout_s=1.0,
    retry=RetrySettings(retries_max=2, backoff_base_s=0.1, backoff_cap_s=0.1),
    budget=PLENTY,
    breaker=BreakerSettings(consecutive_failures=5, minimum_calls=100, open_s=5.0, open_jitter=0.0, open_growth=1.0),
    bulkhead=BulkheadSettings(concurrency=2, queue=2, wait_max_s=1.0),
)

VERDICTS = {
    "ok": SUCCESS,
    "not found": BUSINESS,
    "refused": UNREACHABLE,
    "reset": SILENT,
    "500": BROKEN,
    "503": overloaded(nothing_done=True),
    "503 maybe": overloaded(),
    "503 in 0.3": overloaded(0.3, nothing_done=True),
}


class Seen(Unobserved):
    """Remembers events as words."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def attempted(self, peer: str, kind: str, outcome: str, duration_s: float) -> None:
        self.events.append(f"attempted {outcome}")

    def retried(self, peer: str, kind: str, failure: Failure, delay_s: float) -> None:
        self.events.append(f"retried {failure} in {delay_s:.2f}")

    def budget_exhausted(self, peer: str, kind: str) -> None:
        self.events.append("budget exhausted")

    def breaker_moved(self, peer: str, kind: str, old: State, new: State, cause: Cause) -> None:
        self.events.append(f"{peer}/{kind} {old} to {new}: {cause.reason}")

    def breaker_would_open(self, peer: str, kind: str, cause: Cause) -> None:
        self.events.append(f"would open: {cause.reason}")

    def breaker_rejected(self, peer: str, kind: str, state: State) -> None:
        self.events.append(f"rejected {state}")

    def bulkhead_queued(self, peer: str, kind: str, waited_s: float) -> None:
        self.events.append(f"queued {waited_s:.2f}")

    def bulkhead_rejected(self, peer: str, kind: str) -> None:
        self.events.append("bulkhead rejected")


class Peer:
    """Answers attempt after attempt from a script: (seconds, answer or exception); the last line repeats."""

    def __init__(self, *script: tuple[float, object]) -> None:
        self.script = list(script)
        self.given_s: list[float] = []
        self.at_s: list[float] = []
        self.most = 0
        self.inside = 0

    async def __call__(self, timeout_s: float) -> Any:
        self.at_s.append(asyncio.get_running_loop().time())
        self.given_s.append(timeout_s)
        self.inside += 1
        self.most = max(self.most, self.inside)
        try:
            seconds, answer = self.script[min(len(self.given_s), len(self.script)) - 1]
            await asyncio.sleep(seconds)
        finally:
            self.inside -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer


class Scene:
    """A policy on a virtual loop, and how to call it."""

    def __init__(self, changed: dict[str, Any]) -> None:
        self.loop = asyncio.get_running_loop()
        self.seen = Seen()
        self.policies = Policies(
            msgspec.structs.replace(SETTINGS, **changed),
            clock=self.loop.time,
            random=lambda: 0.5,
            observer=self.seen,
        )
        self.policy = self.policies.get("conference", "write")

    async def call(self, peer: Peer, *, seconds: float = 10.0, policy: Policy | None = None, **arguments: Any) -> Any:
        arguments = {"idempotent": True, "classify": VERDICTS.__getitem__, **arguments}
        deadline = Deadline.after(seconds, self.loop.time())
        return await (policy or self.policy).call(peer, deadline=deadline, **arguments)

    async def open(self) -> None:
        for _ in range(5):
            await self.call(Peer((0.0, "500")))
        assert self.policy.breaker.state is State.OPEN
        self.seen.events.clear()


Play = Callable[[Scene], Awaitable[None]]
Stage = Callable[..., None]


@pytest.fixture
def stage(virtual: Virtual[None]) -> Stage:
    def run(play: Play, **changed: Any) -> None:
        async def main() -> None:
            scene = Scene(changed)
            await play(scene)
            assert scene.policy.bulkhead.in_use == 0, "every place was given back"
            assert scene.policy.bulkhead.queued == 0
            assert scene.policy.snapshot().breaker.in_flight == 0, "every permit was answered"

        virtual(main)

    return run


# ── what comes back ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("answer", ["ok", "not found"])
def test_an_answer_comes_back_as_it_is_after_one_attempt(stage: Stage, answer: str) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.1, answer))
        assert await scene.call(peer) == answer
        assert peer.given_s == [1.0]
        assert scene.seen.events == [f"attempted {'success' if answer == 'ok' else 'business'}"]

    stage(play)


def test_an_attempt_gets_what_is_left_of_the_deadline(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "ok"))
        await scene.call(peer, seconds=0.4)
        assert peer.given_s == [pytest.approx(0.4)]

    stage(play)


def test_no_answer_in_time_is_a_value_that_says_nobody_knows(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        begun_s = scene.loop.time()
        outcome = await scene.call(Peer((3600, "ok")), idempotent=False)
        assert outcome == TimedOut("conference", "write", 1.0)
        assert scene.loop.time() - begun_s == pytest.approx(1.0)

    stage(play)


def test_what_an_attempt_raises_is_raised_as_it_is(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        error = ConnectionResetError("by peer")
        with pytest.raises(ConnectionResetError) as caught:
            await scene.call(Peer((0.1, error)))
        assert caught.value is error

    stage(play)


def test_a_time_out_of_the_attempt_s_own_is_its_error_not_our_time_out(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        error = TimeoutError("the pool's")
        with pytest.raises(TimeoutError) as caught:
            await scene.call(Peer((0.1, error)))
        assert caught.value is error

    stage(play)


def test_a_deadline_that_has_passed_sends_nothing(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "ok"))
        outcome = await scene.call(peer, seconds=0.0)
        assert outcome == Withheld("conference", "write", Failure.DEADLINE_PASSED, 0.0)
        assert peer.given_s == []

    stage(play)


def test_none_is_an_answer_like_any_other(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        assert await scene.call(Peer((0.0, None)), classify=lambda _: SUCCESS) is None

    stage(play)


# ── retries ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("first", "attempts"),
    [("reset", 2), ("refused", 2), ("503", 2), ("500", 1), ("not found", 1), ("ok", 1)],
)
def test_only_what_another_attempt_can_mend_is_tried_again(stage: Stage, first: str, attempts: int) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, first), (0.0, "ok"))
        assert await scene.call(peer) == ("ok" if attempts == 2 else first)
        assert len(peer.given_s) == attempts

    stage(play)


def test_two_retries_and_then_the_last_outcome(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "reset"))
        assert await scene.call(peer) == "reset"
        assert len(peer.given_s) == 3
        assert scene.seen.events == [
            "attempted silent", "retried silent in 0.05",
            "attempted silent", "retried silent in 0.05",
            "attempted silent",
        ]  # fmt: skip

    stage(play)


def test_what_is_not_idempotent_is_sent_once(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "refused"), (0.0, "ok"))
        assert await scene.call(peer, idempotent=False) == "refused"

    stage(play)


def test_retry_after_is_honoured(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "503 in 0.3"), (0.0, "ok"))
        assert await scene.call(peer) == "ok"
        assert peer.at_s[1] - peer.at_s[0] == pytest.approx(0.35)

    stage(play)


def test_no_answer_is_later_than_the_deadline(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        begun_s = scene.loop.time()
        outcome = await scene.call(Peer((3600, "ok")), seconds=1.5)
        assert outcome == TimedOut("conference", "write", pytest.approx(0.45))  # type: ignore[arg-type]
        assert scene.loop.time() - begun_s == pytest.approx(1.5)

    stage(play)


def test_an_exhausted_budget_ends_it(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(9):
            await scene.call(Peer((0.0, "ok")))
        peer = Peer((0.0, "reset"))
        await scene.call(peer)
        assert len(peer.given_s) == 2, "ten calls earn one retry"
        assert scene.seen.events[-1] == "budget exhausted"
        assert scene.policy.snapshot().retry_ratio == pytest.approx(0.1)

    stage(play, budget=BudgetSettings(ratio=0.1, floor_per_s=0.0))


def test_withheld_calls_earn_no_retries(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        await scene.open()
        before = scene.policy.snapshot().retry_balance
        for _ in range(1000):
            await scene.call(Peer((0.0, "ok")))
        assert scene.policy.snapshot().retry_balance == before

    stage(play, budget=BudgetSettings(ratio=0.1, floor_per_s=0.0))


def test_half_failing_calls_make_at_most_a_tenth_more(stage: Stage) -> None:
    """Issue 4, scenario 4: 50 % errors, the budget bounds retries at 10 % (and the floor)."""

    async def play(scene: Scene) -> None:
        chance, attempts, calls = random.Random(1), 0, 2000

        async def flaky(timeout_s: float) -> str:
            nonlocal attempts
            attempts += 1
            await asyncio.sleep(0.01)
            return chance.choice(["ok", "reset"])

        for _ in range(calls):
            await scene.policy.call(
                flaky,
                deadline=Deadline.after(2.0, scene.loop.time()),
                idempotent=True,
                classify=VERDICTS.__getitem__,
            )
        windows = 1 + 2000 * 0.02 / 10
        assert calls < attempts <= calls * 1.1 + windows * 2

    stage(
        play,
        budget=BudgetSettings(),
        breaker=BreakerSettings(consecutive_failures=0, failure_rate=1.0),
    )


# ── whose outcome stands ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (["reset", "refused"], "reset"),  # the first may have been carried out: "refused" would be a lie
        (["reset", "503"], "reset"),
        (["reset", "refused", "refused"], "reset"),
        (["refused", "reset", "503"], "reset"),
        (["refused", "503"], "503"),  # nothing was done in either
        (["reset", "503 maybe"], "503 maybe"),  # as unknown, and newer
        (["reset", "ok"], "ok"),  # an answer to an idempotent message speaks for all of its copies
        (["reset", "not found"], "not found"),
        (["reset", "500"], "500"),
    ],
)
def test_an_unknown_effect_outlives_a_proof_about_another_attempt(
    stage: Stage, script: list[str], expected: str
) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer(*((0.0, answer) for answer in script))
        assert await scene.call(peer) == expected

    stage(play, retry=RetrySettings(retries_max=len(script) - 1))


def test_a_time_out_outlives_a_refused_connection(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        assert isinstance(await scene.call(Peer((3600, "ok"), (0.0, "refused"))), TimedOut)

    stage(play, retry=RetrySettings(retries_max=1))


def test_an_unknown_error_outlives_a_refused_connection(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        with pytest.raises(ConnectionResetError):
            await scene.call(Peer((0.0, ConnectionResetError()), (0.0, ConnectionRefusedError())))

    stage(play, retry=RetrySettings(retries_max=1))


def test_withheld_is_never_said_of_a_call_that_was_sent(stage: Stage) -> None:
    """The breaker opens between the attempts: the first one's outcome stands."""

    async def play(scene: Scene) -> None:
        peer = Peer((0.0, "reset"))
        calling = asyncio.ensure_future(scene.call(peer))
        await asyncio.sleep(0.01)
        scene.policies.force("conference", "write", Mode.FORCED_OPEN)
        assert await calling == "reset"
        assert len(peer.given_s) == 1

    stage(play)


@exact
@given(
    script=st.lists(
        st.tuples(st.sampled_from([0.0, 0.2, 3600.0]), st.sampled_from(sorted(VERDICTS))), min_size=1, max_size=4
    ),
    seconds=st.sampled_from([0.0, 0.15, 1.0, 2.5, 10.0]),
    idempotent=st.booleans(),
)
def test_withheld_if_and_only_if_nothing_was_sent_and_no_answer_is_late(
    script: list[tuple[float, str]], seconds: float, idempotent: bool
) -> None:
    async def main() -> None:
        scene, peer = Scene({}), Peer(*script)
        begun_s = scene.loop.time()
        outcome = await scene.call(peer, seconds=seconds, idempotent=idempotent)
        assert isinstance(outcome, Withheld) == (peer.given_s == [])
        assert scene.loop.time() - begun_s <= seconds + 0.001
        assert len(peer.given_s) <= (3 if idempotent else 1)
        sent = [script[min(number, len(script) - 1)] for number in range(len(peer.given_s))]
        unknown = any(took_s >= given_s or VERDICTS[answer].effect_unknown
                      for (took_s, answer), given_s in zip(sent, peer.given_s, strict=True))  # fmt: skip
        if isinstance(outcome, str) and VERDICTS[outcome].nothing_done:
            assert not unknown, "nobody is told that nothing was done where something may have been"
        assert scene.policy.bulkhead.in_use == 0
        assert scene.policy.snapshot().breaker.in_flight == 0

    run_virtually(main)


# ── the breaker ────────────────────────────────────────────────────────────────────────────────


def test_an_open_breaker_sends_nothing_and_says_when_it_will_probe(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        await scene.open()
        await asyncio.sleep(2.0)
        peer = Peer((0.0, "ok"))
        assert await scene.call(peer) == Withheld("conference", "write", Failure.BREAKER_OPEN, pytest.approx(3.0))  # type: ignore[arg-type]
        assert peer.given_s == []
        assert scene.seen.events == ["rejected open"]
        await asyncio.sleep(3.0)
        assert await scene.call(peer) == "ok"
        assert scene.seen.events[1:] == [
            "conference/write open to half_open: open_time_over",
            "conference/write half_open to closed: probes_passed",
            "attempted success",
        ]

    stage(play)


def test_business_does_not_open_it(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(20):
            await scene.call(Peer((0.0, "not found")), idempotent=False)
        assert scene.policy.breaker.state is State.CLOSED
        assert scene.policy.snapshot().breaker.calls == 0

    stage(play)


@pytest.mark.parametrize("answer", ["refused", "reset", "500", "503"])
def test_connection_errors_time_outs_5xx_and_overload_open_it(stage: Stage, answer: str) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(5):
            await scene.call(Peer((0.0, answer)), idempotent=False)
        assert scene.policy.breaker.state is State.OPEN

    stage(play)


def test_half_a_second_more_latency_opens_it_by_slow_calls_and_its_end_closes_it(stage: Stage) -> None:
    """Issue 4, scenario 3, with the default breaker."""

    async def play(scene: Scene) -> None:
        while scene.policy.breaker.state is State.CLOSED:
            await asyncio.gather(*(scene.call(Peer((0.5, "ok"))) for _ in range(4)))
        assert scene.seen.events[-1].endswith("slow_call_rate") or any(
            event.endswith("closed to open: slow_call_rate") for event in scene.seen.events
        )
        await asyncio.sleep(3.0)
        await scene.call(Peer((0.5, "ok")))
        assert scene.policy.breaker.state is State.OPEN, "a slow probe does not close it"
        await asyncio.sleep(5.0)
        await scene.call(Peer((0.02, "ok")))
        assert scene.policy.breaker.state is State.CLOSED

    stage(play, breaker=BreakerSettings(), bulkhead=BulkheadSettings())


def test_the_failure_that_opens_it_is_not_waited_on_for_a_retry_that_would_be_withheld(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        begun_s = scene.loop.time()
        assert await scene.call(Peer((0.0, "reset"))) == "reset"
        assert scene.loop.time() == begun_s
        assert scene.policy.snapshot().retry_ratio == 0.0

    stage(play, breaker=BreakerSettings(consecutive_failures=1, open_jitter=0.0))


def test_reads_do_not_open_writes_and_one_peer_not_another(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        await scene.open()
        for peer, kind in (("conference", "read"), ("author", "write")):
            assert await scene.call(Peer((0.0, "ok")), policy=scene.policies.get(peer, kind)) == "ok"

    stage(play)


def test_a_client_in_a_hurry_does_not_open_it_for_all(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(50):
            outcome = await scene.call(Peer((3600, "ok")), seconds=0.05, idempotent=False)
            assert isinstance(outcome, TimedOut)
        assert scene.policy.breaker.state is State.CLOSED
        for _ in range(5):
            await scene.call(Peer((3600, "ok")), seconds=0.2, idempotent=False)
        assert scene.policy.breaker.state is State.OPEN, "but a time-out that was fair counts"

    stage(play)


def test_a_deadline_kept_by_whoever_waits_for_us_counts_as_a_time_out(stage: Stage) -> None:
    """The same deadline is kept outside and inside; which timer strikes first must not matter."""

    async def play(scene: Scene) -> None:
        for _ in range(5):
            calling = asyncio.ensure_future(scene.call(Peer((3600, "ok")), seconds=0.5))
            await asyncio.sleep(0.499)
            calling.cancel()
            await asyncio.wait([calling])
            assert calling.cancelled()
        assert scene.policy.breaker.state is State.OPEN

    stage(play)


def test_a_change_of_mind_before_the_deadline_is_neutral(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        for _ in range(20):
            calling = asyncio.ensure_future(scene.call(Peer((3600, "ok"))))
            await asyncio.sleep(0.5)
            calling.cancel()
            await asyncio.wait([calling])
            assert calling.cancelled()
        assert scene.policy.breaker.state is State.CLOSED

    stage(play)


def test_a_fault_in_classify_is_raised_and_held_against_nobody(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        with pytest.raises(KeyError):
            await scene.call(Peer((0.0, "what is this?")))
        assert scene.policy.snapshot().breaker.calls == 0

    stage(play)


# ── the bulkhead ───────────────────────────────────────────────────────────────────────────────


def test_so_many_at_once_so_many_wait_and_the_rest_is_turned_away(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        peer = Peer((0.4, "ok"))
        outcomes = await asyncio.gather(*(scene.call(peer) for _ in range(6)))
        assert outcomes.count("ok") == 4
        assert outcomes.count(Withheld("conference", "write", Failure.BULKHEAD_FULL, 1.0)) == 2
        assert peer.most == 2
        assert sorted(scene.seen.events) == [
            *["attempted success"] * 4, *["bulkhead rejected"] * 2, *["queued 0.40"] * 2
        ]  # fmt: skip
        assert scene.policy.snapshot().breaker.calls == 4, "a rejection of our own is not the peer's"

    stage(play)


def test_a_wait_in_the_queue_is_not_the_peer_s_slowness(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        await asyncio.gather(*(scene.call(Peer((0.3, "ok"))) for _ in range(4)))
        assert scene.seen.events.count("queued 0.30") == 2
        assert scene.policy.snapshot().breaker.slow == 0

    stage(play)


def test_the_deadline_ends_the_wait(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        slow = [asyncio.ensure_future(scene.call(Peer((0.9, "ok")))) for _ in range(2)]
        await asyncio.sleep(0)
        outcome = await scene.call(Peer((0.0, "ok")), seconds=0.3)
        assert outcome == Withheld("conference", "write", Failure.DEADLINE_PASSED, 0.0)
        await asyncio.gather(*slow)

    stage(play)


def test_who_waited_asks_the_breaker_again(stage: Stage) -> None:
    """Two calls fail and open it; the two behind them in the queue must not be sent."""

    async def play(scene: Scene) -> None:
        peer = Peer((0.4, "500"))
        outcomes = await asyncio.gather(*(scene.call(peer) for _ in range(4)))
        assert outcomes[:2] == ["500", "500"]
        assert all(isinstance(outcome, Withheld) for outcome in outcomes[2:])
        assert len(peer.given_s) == 2

    stage(play, breaker=BreakerSettings(consecutive_failures=2, open_jitter=0.0))


def test_all_kinds_of_call_to_a_peer_share_its_bulkhead_and_budget(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        reads = scene.policies.get("conference", "read")
        assert reads.bulkhead is scene.policy.bulkhead
        assert reads.budget is scene.policy.budget
        assert reads.breaker is not scene.policy.breaker
        assert scene.policies.get("author", "read").bulkhead is not reads.bulkhead

    stage(play)


def test_a_cancelled_wait_gives_the_permit_back(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        inside = [asyncio.ensure_future(scene.call(Peer((0.9, "ok")))) for _ in range(2)]
        await asyncio.sleep(0)
        waiting = asyncio.ensure_future(scene.call(Peer((0.0, "ok"))))
        await asyncio.sleep(0.1)
        assert scene.policy.snapshot().bulkhead_queued == 1
        waiting.cancel()
        await asyncio.wait([waiting])
        await asyncio.gather(*inside)

    stage(play)


def test_a_full_bulkhead_is_a_refusal_until_there_is_a_place(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        calls = [asyncio.ensure_future(scene.call(Peer((0.4, "ok")))) for _ in range(4)]
        await asyncio.sleep(0.1)
        assert scene.policy.refusal() == Withheld("conference", "write", Failure.BULKHEAD_FULL, 1.0)
        await asyncio.gather(*calls)
        assert scene.policy.refusal() is None

    stage(play)


# ── all of them ────────────────────────────────────────────────────────────────────────────────


def test_one_policy_per_peer_and_kind(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        assert scene.policies.get("conference", "write") is scene.policy

    stage(play)


def test_overrides_apply_to_one_peer_and_kind_only() -> None:
    patient = msgspec.structs.replace(SETTINGS, attempt_timeout_s=9.0)
    policies = Policies(SETTINGS, clock=lambda: 0.0, random=lambda: 0.0, overrides={("conference", "settle"): patient})
    assert policies.get("conference", "settle").settings.attempt_timeout_s == 9.0
    assert policies.get("conference", "write").settings.attempt_timeout_s == 1.0


def test_an_operator_forces_one_breaker_and_sees_all(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        scene.policies.get("author", "read")
        assert scene.policies.force("conference", "write", Mode.FORCED_OPEN)
        assert not scene.policies.force("conference", "no such kind", Mode.FORCED_OPEN)
        assert scene.seen.events == ["conference/write closed to forced_open: forced"]
        outcome = await scene.call(Peer((0.0, "ok")))
        assert outcome == Withheld("conference", "write", Failure.BREAKER_OPEN, 5.0)
        shown = msgspec.json.decode(msgspec.json.encode(scene.policies.snapshot()))
        assert [(each["peer"], each["kind"], each["breaker"]["state"]) for each in shown] == [
            ("author", "read", "closed"),
            ("conference", "write", "forced_open"),
        ]
        scene.policies.force("conference", "write", Mode.AUTO)
        assert await scene.call(Peer((0.0, "ok"))) == "ok"

    stage(play)


def test_observing_tells_what_it_would_have_done(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        scene.policies.force("conference", "write", Mode.OBSERVE)
        for _ in range(9):
            assert await scene.call(Peer((0.0, "500"))) == "500"
        assert f"would open: {Reason.CONSECUTIVE_FAILURES}" in scene.seen.events

    stage(play)


# ── the recovery ───────────────────────────────────────────────────────────────────────────────


def test_many_gateways_neither_probe_nor_come_back_all_at_once(virtual: Virtual[None]) -> None:
    """Issue 4, scenario 1: 20 gateways at 10 calls/s each. While the peer is down it is all but left alone; in the
    recovery it never gets more than 1.2 × the steady calls of a second."""

    async def main() -> None:
        loop, chance = asyncio.get_running_loop(), random.Random(2)
        down_from_s, down_until_s = loop.time() + 5.0, loop.time() + 20.0
        arrivals: list[float] = []

        async def peer(timeout_s: float) -> str:
            arrivals.append(loop.time())
            down = down_from_s <= loop.time() < down_until_s
            await asyncio.sleep(0.01)
            return "refused" if down else "ok"

        async def gateway() -> None:
            policies = Policies(PolicySettings(), clock=loop.time, random=random.Random(chance.random()).random)
            policy = policies.get("conference", "write")
            await asyncio.sleep(chance.random() / 10)
            for _ in range(350):
                await policy.call(
                    peer,
                    deadline=Deadline.after(2.0, loop.time()),
                    idempotent=True,
                    classify=VERDICTS.__getitem__,
                )
                await asyncio.sleep(0.09)

        began_s = loop.time()
        await asyncio.gather(*(gateway() for _ in range(20)))
        per_second = [0] * 60
        for at_s in arrivals:
            per_second[int(at_s - began_s)] += 1
        steady = max(per_second[1:4])
        assert max(per_second[8:20]) < 0.25 * steady, "down: a few probes"
        assert max(per_second[20:30]) <= 1.2 * steady
        assert min(per_second[27:30]) > 0.8 * steady, "and everybody is back"

    virtual(main)


# ── what errors mean ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (ConnectionRefusedError(), UNREACHABLE),
        (socket.gaierror(), UNREACHABLE),
        (ConnectionResetError(), SILENT),
        (BrokenPipeError(), SILENT),
        (TimeoutError(), SILENT),
        (ValueError(), BROKEN),
    ],
)
def test_only_what_fails_before_sending_proves_that_nothing_was_done(error: Exception, verdict: Verdict) -> None:
    assert verdict_of_error(error) == verdict
    assert verdict.nothing_done == (verdict is UNREACHABLE)


@pytest.mark.parametrize(("field", "value"), [("attempt_timeout_s", 0.0), ("fair_timeout_s", 2.0)])
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        PolicySettings(**{field: value})  # type: ignore[arg-type]


def test_repr_is_a_sentence_of_state(stage: Stage) -> None:
    async def play(scene: Scene) -> None:
        assert repr(scene.policy) == "<Policy conference/write breaker=closed <Bulkhead 0 of 2 in use, 0 queued>>"

    stage(play)
