"""Calls within policies: what counts as a failure, what is told of it, and when a read is sent twice."""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tally.chassis import logs
from tally.chassis.calls import Calls
from tally.chassis.client import NotSent, Outcome, Rejected, Reply, Silent
from tally.chassis.clock import SystemClock
from tally.chassis.problems import CODES
from tally.chassis.signals import Signals
from tally.resilience.breaker import BreakerSettings, Mode, State
from tally.resilience.budget import BudgetSettings
from tally.resilience.deadline import Deadline
from tally.resilience.policy import PolicySettings
from tally.resilience.retry import RetrySettings

OK = Reply(b"{}")
NO_RETRY = PolicySettings(
    retry=RetrySettings(retries_max=0), breaker=BreakerSettings(consecutive_failures=3, minimum_calls=100)
)
PERSISTENT = PolicySettings(
    retry=RetrySettings(retries_max=2, backoff_base_s=0.001), breaker=BreakerSettings(consecutive_failures=0)
)
BUSINESS = ["not-found", "event-full", "unauthenticated", "version-mismatch", "bad-request"]


class Scripted:
    """A client whose peer answers what it is told to, in turn; the last one for good."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = deque(outcomes)
        self.calls: list[str] = []

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        self.calls.append(kind)
        return self.outcomes[0] if len(self.outcomes) == 1 else self.outcomes.popleft()


def made(*outcomes: Outcome, settings: PolicySettings = NO_RETRY) -> tuple[Calls, Scripted, Signals]:
    client, signals = Scripted(*outcomes), Signals("gateway")
    calls = Calls(client, signals, SystemClock(), settings=settings)  # type: ignore[arg-type]
    calls.announce("author", ["read", "write"])
    return calls, client, signals


async def post(calls: Calls, times: int = 1, kind: str = "write") -> Sequence[Outcome]:
    deadline = Deadline.after(10.0, SystemClock().monotonic_s())
    return [await calls.post("author", "/x", b"{}", kind=kind, deadline=deadline) for _ in range(times)]


def state(calls: Calls, kind: str = "write") -> State:
    return next(one.breaker.state for one in calls.snapshot() if one.kind == kind)


def value(signals: Signals, name: str, **labels: str) -> float | None:
    return signals.registry.get_sample_value(f"tally_{name}", {"peer": "author", **labels})


# --- what is a failure


@pytest.mark.parametrize(
    "failure",
    [
        NotSent("refused"),
        NotSent("dns"),
        Silent("timeout"),
        Silent("reset"),
        Silent("cut-short"),
        *(Rejected(CODES[code].status, code) for code in CODES if CODES[code].status >= 500),
        Rejected(500, "a code of the future"),
    ],
    ids=str,
)
async def test_silence_unreachability_and_a_peers_own_faults_open_the_breaker(failure: Outcome) -> None:
    calls, client, _ = made(failure)
    assert set(await post(calls, 3)) == {failure}
    assert state(calls) is State.OPEN
    (withheld,) = await post(calls)
    assert isinstance(withheld, NotSent)
    assert withheld.reason == "breaker_open"
    assert withheld.retry_after_s is not None
    assert len(client.calls) == 3


@pytest.mark.parametrize("code", BUSINESS)
async def test_a_business_refusal_is_neither_a_failure_nor_a_success(code: str) -> None:
    refusal = Rejected(CODES[code].status, code)
    calls, client, _ = made(Silent("reset"), Silent("reset"), refusal, refusal, Silent("reset"), OK)
    assert (await post(calls, 4))[-1] == refusal
    assert state(calls) is State.CLOSED
    await post(calls)
    assert state(calls) is State.OPEN  # the refusals between did not forgive the two failures before
    assert len(client.calls) == 5


async def test_a_success_forgives() -> None:
    calls, _, _ = made(Silent("reset"), Silent("reset"), OK, Silent("reset"), Silent("reset"), OK)
    await post(calls, 6)
    assert state(calls) is State.CLOSED


async def test_a_read_breaker_that_opens_leaves_writes_alone() -> None:
    calls, client, signals = made(Silent("reset"), Silent("reset"), Silent("reset"), OK)
    await post(calls, 3, "read")
    assert (state(calls, "read"), state(calls, "write")) == (State.OPEN, State.CLOSED)
    assert calls.unavailable_s("author", "write") is None
    assert 0 < (calls.unavailable_s("author", "read") or 0) < 3
    # Whoever asked does not call: it counts as one that was not made.
    assert value(signals, "breaker_rejections_total", kind="read") == 1
    assert value(signals, "breaker_rejections_total", kind="write") == 0
    assert await post(calls) == [OK]
    assert client.calls == ["read"] * 3 + ["write"]


# --- again


async def test_what_was_answered_the_second_time_is_the_answer_and_the_retry_is_counted() -> None:
    calls, client, signals = made(Silent("reset"), OK, settings=PERSISTENT)
    assert await post(calls) == [OK]
    assert len(client.calls) == 2
    assert value(signals, "retries_total", reason="silent") == 1


async def test_silence_is_not_forgotten_when_the_second_time_nothing_left() -> None:
    calls, _, _ = made(Silent("reset"), NotSent("refused"), settings=PERSISTENT)
    assert await post(calls) == [Silent("reset")]


@pytest.mark.parametrize("code", ["unauthenticated", "forbidden", "no-such-path", "body-too-large"])
async def test_silence_is_not_forgotten_when_the_second_time_it_is_turned_away(code: str) -> None:
    """Its process was replaced in between: the new one knows nothing of what the old one did."""
    calls, client, _ = made(Silent("reset"), Rejected(CODES[code].status, code), settings=PERSISTENT)
    assert await post(calls) == [Silent("reset")]
    assert client.calls == ["write", "write"]


async def test_a_refusal_of_the_second_time_is_the_answer() -> None:
    calls, _, _ = made(Silent("reset"), Rejected(404, "not-found"), settings=PERSISTENT)
    assert await post(calls) == [Rejected(404, "not-found")]


async def test_retries_are_bounded_by_a_tenth_of_the_calls_and_the_refusals_are_counted() -> None:
    calls, client, signals = made(Silent("reset"), settings=PERSISTENT)
    calls.force("author", "write", Mode.FORCED_CLOSED)  # else the breaker alone would end it
    await post(calls, 200)
    again = len(client.calls) - 200
    assert 1 <= again <= 0.1 * 200 + 10
    assert value(signals, "retries_total", reason="silent") == again
    assert (value(signals, "retries_refused_total") or 0) > 100
    assert (value(signals, "retry_budget_ratio") or 0) == pytest.approx(again / 200, abs=0.02)


async def test_a_business_refusal_is_never_sent_again() -> None:
    calls, client, _ = made(Rejected(404, "not-found"), settings=PERSISTENT)
    await post(calls, 5)
    assert len(client.calls) == 5


# --- what is told


async def test_what_the_policies_do_to_a_call_shows_on_the_span_that_it_is_made_for() -> None:
    exporter = InMemorySpanExporter()
    signals = Signals("gateway", span_exporter=exporter)
    client = Scripted(Silent("reset"))
    one_retry = BudgetSettings(floor_per_s=0.1)  # in ten seconds
    settings = msgspec.structs.replace(NO_RETRY, retry=PERSISTENT.retry, budget=one_retry)
    calls = Calls(client, signals, SystemClock(), settings=settings)  # type: ignore[arg-type]
    with signals.span("fan_out"):
        await post(calls, 4)
    (fan_out,) = exporter.get_finished_spans()
    told = Counter(event.name for event in fan_out.events)
    assert told == {"retry": 1, "retry-refused": 1, "breaker": 1, "withheld": 2}
    for event in fan_out.events:
        assert event.attributes is not None
        assert (event.attributes["tally.peer"], event.attributes["tally.kind"]) == ("author", "write")


async def test_a_move_of_a_breaker_is_counted_and_logged_with_its_cause() -> None:
    calls, _, signals = made(Silent("reset"))
    assert value(signals, "breaker_state", kind="write") == 0
    with logs.capture() as events:
        await post(calls, 5)
    moves = [event for event in events if event["event"] == "breaker moved"]
    assert [(one["was"], one["now"], one["cause"], one["level"]) for one in moves] == [
        ("closed", "open", "consecutive_failures", "warning")
    ]
    assert (moves[0]["peer"], moves[0]["kind"]) == ("author", "write")
    assert "3" in moves[0]["detail"]
    assert value(signals, "breaker_state", kind="write") == 2
    assert value(signals, "breaker_state", kind="read") == 0
    assert value(signals, "breaker_transitions_total", kind="write", from_state="closed", to_state="open") == 1
    assert value(signals, "breaker_rejections_total", kind="write") == 2


async def test_since_when_a_peer_is_silent_is_known_until_it_answers_anything() -> None:
    calls, client, _ = made(OK)
    await post(calls)
    assert calls.silent_since_ms("author") is None
    client.outcomes = deque([Silent("reset")])
    before_ms = SystemClock().now_ms()
    await post(calls, 2)
    since_ms = calls.silent_since_ms("author")
    assert since_ms is not None
    await post(calls, 2)  # withheld by the breaker
    assert calls.silent_since_ms("author") == since_ms
    assert before_ms <= since_ms <= SystemClock().now_ms()
    calls.force("author", "write", Mode.AUTO)
    client.outcomes = deque([Rejected(404, "not-found")])
    await post(calls, kind="read")
    assert calls.silent_since_ms("author") is None


async def test_what_is_shown_of_the_policies_is_json() -> None:
    calls, _, _ = made(OK)
    await post(calls)
    shown = msgspec.json.decode(msgspec.json.encode(calls.snapshot()))
    assert {(one["peer"], one["kind"], one["breaker"]["state"]) for one in shown} == {
        ("author", "read", "closed"),
        ("author", "write", "closed"),
    }


# --- deadlines


async def test_after_its_deadline_nothing_is_sent() -> None:
    calls, client, _ = made(OK)
    late = Deadline.after(0.0, SystemClock().monotonic_s())
    outcome = await calls.post("author", "/x", b"{}", kind="write", deadline=late)
    assert outcome == NotSent("deadline_passed", 0.0)
    assert client.calls == []


class Hanging(Scripted):
    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        self.calls.append(kind)
        await asyncio.sleep(60)
        return OK


async def test_a_peer_that_hangs_is_silent_by_the_deadline_and_that_counts() -> None:
    client = Hanging(OK)
    calls = Calls(client, Signals("gateway"), SystemClock(), settings=NO_RETRY)  # type: ignore[arg-type]
    for _ in range(3):
        deadline = Deadline.after(0.15, SystemClock().monotonic_s())
        assert await calls.post("author", "/x", b"{}", kind="write", deadline=deadline) == Silent("timeout")
    assert state(calls) is State.OPEN


# --- hedging


class Uneven(Scripted):
    """Answers at once, but for the call that is to be slow; notes who was cancelled."""

    slow: int | None = None
    cancelled = 0

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        self.calls.append(kind)
        if len(self.calls) == self.slow:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        return OK


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("on", [True, False])
async def test_only_a_slow_read_is_sent_twice_and_only_if_that_is_switched_on(kind: str, on: bool) -> None:
    client = Uneven(OK)
    settings = PolicySettings(attempt_timeout_s=0.3, retry=RetrySettings(retries_max=0))
    calls = Calls(client, Signals("gateway"), SystemClock(), settings=settings, hedge_reads=on)  # type: ignore[arg-type]
    await post(calls, 60, kind)
    client.slow = 61
    (outcome,) = await post(calls, 1, kind)
    hedged = on and kind == "read"
    assert outcome == (OK if hedged else Silent("timeout"))
    assert len(client.calls) == 60 + (2 if hedged else 1)
    assert client.cancelled == 1
