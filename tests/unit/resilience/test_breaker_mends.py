"""What aiobreaker 1.2.0 does wrong alone, and does not do behind `Breaker`: one pair of tests for each fault.

The first of a pair shows the fault in aiobreaker itself. If it fails one day, aiobreaker has mended it, and our mend
can go.
"""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import aiobreaker.circuitbreaker
import aiobreaker.state
import pytest
from aiobreaker import CircuitBreaker, CircuitBreakerError, CircuitBreakerState

from tally.resilience.breaker import Breaker, BreakerSettings, Permit, Rejected, State
from tally.resilience.circuit import Circuit
from tally.resilience.deadline import Deadline
from tally.resilience.policy import Policies, Policy, PolicySettings
from tally.resilience.retry import RetrySettings
from tally.resilience.verdict import SUCCESS, TimedOut, Withheld

T = TypeVar("T")
Virtual = Callable[[Callable[[], Awaitable[T]]], T]

SETTINGS = BreakerSettings(consecutive_failures=3, minimum_calls=100, open_s=5.0, open_jitter=0.0)
ZONES = ("UTC", "Asia/Tokyo", "America/New_York", "Pacific/Kiritimati")


class Boom(Exception):
    pass


class NotFound(Exception):
    pass


async def boom() -> None:
    raise Boom


async def fine() -> str:
    return "fine"


def a_breaker(**changes: Any) -> Breaker:
    settings = {**{field: getattr(SETTINGS, field) for field in SETTINGS.__struct_fields__}, **changes}
    return Breaker(BreakerSettings(**settings), random=lambda: 0.0)


def permitted(breaker: Breaker, now_s: float) -> Permit:
    permit = breaker.acquire(now_s)
    assert isinstance(permit, Permit)
    return permit


def fail(breaker: Breaker, now_s: float, times: int = 1) -> None:
    for _ in range(times):
        breaker.on_failure(permitted(breaker, now_s), Boom(), 0.01, now_s)


def opened(now_s: float = 0.0, **changes: Any) -> Breaker:
    breaker = a_breaker(**changes)
    fail(breaker, now_s, times=3)
    assert breaker.state is State.OPEN
    return breaker


def a_policy(loop: asyncio.AbstractEventLoop, **settings: Any) -> Policy:
    settings = {"breaker": SETTINGS, "retry": RetrySettings(retries_max=0), **settings}
    policies = Policies(PolicySettings(**settings), clock=loop.time, random=lambda: 0.0)
    return policies.get("conference", "write")


@pytest.fixture(autouse=True)
def _utcnow_of_aiobreaker_alone_may_warn() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="datetime.datetime.utcnow", category=DeprecationWarning)
        yield


@pytest.fixture(params=ZONES)
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield request.param
    monkeypatch.undo()
    time.tzset()


# ── it is really used ──────────────────────────────────────────────────────────────────────────


def test_the_states_and_the_count_are_aiobreaker_s() -> None:
    breaker = a_breaker()
    circuit = breaker._circuit
    assert isinstance(circuit, CircuitBreaker)
    fail(breaker, 0.0, times=2)
    assert circuit.fail_counter == 2
    assert circuit.current_state is CircuitBreakerState.CLOSED
    fail(breaker, 0.0)
    assert circuit.current_state is CircuitBreakerState.OPEN
    probe = permitted(breaker, 5.0)
    assert circuit.current_state is CircuitBreakerState.HALF_OPEN
    breaker.on_success(probe, 0.01, 5.1)
    assert circuit.current_state is CircuitBreakerState.CLOSED
    assert circuit.fail_counter == 0


def test_its_stored_state_and_its_state_object_never_part() -> None:
    entered: list[tuple[CircuitBreakerState, CircuitBreakerState]] = []
    circuit = Circuit(1, lambda new: entered.append((new, circuit.current_state)))
    circuit.told_failure()
    circuit.half_open()
    circuit.told_success()
    cycle = (CircuitBreakerState.OPEN, CircuitBreakerState.HALF_OPEN, CircuitBreakerState.CLOSED)
    assert entered == [(state, state) for state in cycle]


# ── half-open lets everybody through ───────────────────────────────────────────────────────────


async def test_aiobreaker_alone_lets_every_concurrent_caller_through_when_half_open() -> None:
    alone = CircuitBreaker(fail_max=1, timeout_duration=timedelta(microseconds=1))
    with pytest.raises(CircuitBreakerError):
        await alone.call_async(boom)
    release, inside = asyncio.Event(), 0

    async def probe() -> None:
        nonlocal inside
        inside += 1
        await release.wait()

    callers = [asyncio.ensure_future(alone.call_async(probe)) for _ in range(20)]
    await asyncio.sleep(0)
    assert inside == 20
    release.set()
    await asyncio.gather(*callers)


def test_half_open_gives_one_permit_among_twenty_callers() -> None:
    breaker = opened()
    answers = [breaker.acquire(5.0) for _ in range(20)]
    assert sum(isinstance(answer, Permit) for answer in answers) == 1


def test_more_probes_can_be_permitted() -> None:
    breaker = opened(permitted_probes=3)
    assert [type(breaker.acquire(5.0)) for _ in range(5)] == [Permit] * 3 + [Rejected] * 2


# ── wall clocks and time zones ─────────────────────────────────────────────────────────────────


def test_aiobreaker_alone_has_no_right_remaining_time_away_from_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        alone = CircuitBreaker(fail_max=1, timeout_duration=timedelta(seconds=30))
        with pytest.raises(CircuitBreakerError) as caught:
            alone.call(_raise)
        assert caught.value.time_remaining.total_seconds() > 3600
    finally:
        monkeypatch.undo()
        time.tzset()


def _raise() -> None:
    raise Boom


def test_retry_after_is_right_in_any_time_zone(zone: str) -> None:
    rejected = opened(now_s=1000.0).acquire(1002.0)
    assert rejected == Rejected(3.0, State.OPEN), zone


def test_no_wall_clock_is_ever_read(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoClock:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"datetime.{name} was used")

    monkeypatch.setattr(aiobreaker.circuitbreaker, "datetime", NoClock())
    monkeypatch.setattr(aiobreaker.state, "datetime", NoClock())
    breaker = opened()
    breaker.acquire(1.0)
    breaker.on_failure(permitted(breaker, 5.0), Boom(), 0.01, 5.0)
    breaker.on_success(permitted(breaker, 20.0), 0.01, 20.0)
    breaker.snapshot(21.0)
    assert breaker.state is State.CLOSED


def test_a_clock_that_stands_still_or_slips_back_keeps_the_breaker_sane() -> None:
    breaker = opened(now_s=100.0)
    rejected = breaker.acquire(99.0)
    assert rejected == Rejected(6.0, State.OPEN)
    assert isinstance(breaker.acquire(105.0), Permit)


def test_no_deprecated_clock_is_called() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        breaker = opened()
        fail(breaker, 5.0)
        breaker.on_success(permitted(breaker, 20.0), 0.01, 20.0)


# ── the real error ─────────────────────────────────────────────────────────────────────────────


async def test_aiobreaker_alone_replaces_the_error_of_the_tripping_call() -> None:
    alone = CircuitBreaker(fail_max=1)
    with pytest.raises(CircuitBreakerError):
        await alone.call_async(boom)


def test_the_tripping_call_and_the_failed_probe_raise_their_own_error(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = a_policy(loop)
        real = Boom("the peer said so")

        async def attempt(timeout_s: float) -> None:
            raise real

        async def call() -> object:
            return await policy.call(
                attempt, deadline=Deadline.after(2.0, loop.time()), idempotent=True, classify=lambda _: SUCCESS
            )

        for _ in range(3):
            with pytest.raises(Boom) as caught:
                await call()
            assert caught.value is real
            assert real.__cause__ is None
        assert policy.breaker.state is State.OPEN
        assert isinstance(await call(), Withheld)
        await asyncio.sleep(5.0)
        with pytest.raises(Boom) as caught:  # the probe
            await call()
        assert caught.value is real
        assert policy.breaker.state is State.OPEN

    virtual(main)


def test_the_breaker_keeps_no_error_alive_and_quotes_no_message() -> None:
    secret = "password=hunter2"
    breaker = a_breaker()
    for _ in range(3):
        breaker.on_failure(permitted(breaker, 0.0), Boom(secret), 0.01, 0.0)
    assert secret not in repr(breaker) + str(breaker.snapshot(0.0))
    assert "Boom" in breaker.snapshot(0.0).cause


# ── business errors ────────────────────────────────────────────────────────────────────────────


async def test_aiobreaker_alone_counts_an_excluded_error_as_a_success() -> None:
    alone = CircuitBreaker(fail_max=3, exclude=[NotFound])

    async def not_found() -> None:
        raise NotFound

    for call in (boom, boom, not_found):
        with pytest.raises((Boom, NotFound)):
            await alone.call_async(call)
    assert alone.fail_counter == 0


def test_a_business_error_is_neither_failure_nor_success() -> None:
    breaker = a_breaker()
    fail(breaker, 0.0, times=2)
    before = breaker.snapshot(0.0)
    breaker.on_ignored(permitted(breaker, 0.0), 0.0)
    after = breaker.snapshot(0.0)
    assert (after.consecutive_failures, after.calls) == (before.consecutive_failures, before.calls) == (2, 2)
    fail(breaker, 0.0)
    assert breaker.state is State.OPEN


def test_a_business_error_decides_nothing_when_half_open_and_gives_the_probe_back() -> None:
    breaker = opened()
    breaker.on_ignored(permitted(breaker, 5.0), 5.0)
    assert breaker.state is State.HALF_OPEN
    assert isinstance(breaker.acquire(5.0), Permit)


# ── a late failure of an old call ──────────────────────────────────────────────────────────────


async def test_aiobreaker_alone_opens_anew_for_the_late_failure_of_an_old_call() -> None:
    alone = CircuitBreaker(fail_max=1, timeout_duration=timedelta(hours=1))
    release = asyncio.Event()

    async def late() -> None:
        await release.wait()
        raise Boom

    old = asyncio.ensure_future(alone.call_async(late))
    await asyncio.sleep(0)
    with pytest.raises(CircuitBreakerError):
        await alone.call_async(boom)
    first = alone._state_storage.opened_at
    release.set()
    with pytest.raises(CircuitBreakerError):
        await old
    assert alone._state_storage.opened_at > first


def test_a_late_failure_does_not_extend_the_open_time() -> None:
    breaker = a_breaker()
    old = permitted(breaker, 0.0)
    fail(breaker, 0.0, times=3)
    breaker.on_failure(old, Boom(), 4.0, 4.0)
    assert breaker.acquire(4.0) == Rejected(1.0, State.OPEN)
    assert breaker.snapshot(4.0).late == 1


def test_a_late_failure_does_not_spoil_the_probe() -> None:
    breaker = a_breaker()
    old = permitted(breaker, 0.0)
    fail(breaker, 0.0, times=3)
    probe = permitted(breaker, 5.0)
    breaker.on_failure(old, Boom(), 5.0, 5.0)
    assert breaker.state is State.HALF_OPEN
    breaker.on_success(probe, 0.1, 5.1)
    assert breaker.state is State.CLOSED


def test_a_late_failure_does_not_count_after_the_recovery() -> None:
    breaker = a_breaker()
    old = [permitted(breaker, 0.0) for _ in range(10)]
    fail(breaker, 0.0, times=3)
    breaker.on_success(permitted(breaker, 5.0), 0.1, 5.1)
    for permit in old:
        breaker.on_failure(permit, Boom(), 6.0, 6.0)
    assert breaker.state is State.CLOSED
    assert breaker.snapshot(6.0).calls == 0


def test_a_late_success_does_not_close_it_either() -> None:
    breaker = a_breaker()
    old = permitted(breaker, 0.0)
    fail(breaker, 0.0, times=3)
    permitted(breaker, 5.0)
    breaker.on_success(old, 5.0, 5.0)
    assert breaker.state is State.HALF_OPEN


# ── time-outs ──────────────────────────────────────────────────────────────────────────────────


async def test_aiobreaker_alone_does_not_see_a_time_out_put_around_it() -> None:
    alone = CircuitBreaker(fail_max=1)

    async def hang() -> None:
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await alone.call_async(hang)
    assert alone.fail_counter == 0


def test_a_time_out_is_inside_the_breaker_and_counts(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = a_policy(loop)

        async def hang(timeout_s: float) -> None:
            await asyncio.sleep(3600)

        for _ in range(3):
            outcome = await policy.call(
                hang, deadline=Deadline.after(2.0, loop.time()), idempotent=True, classify=lambda _: SUCCESS
            )
            assert outcome == TimedOut("conference", "write", 1.0)
        assert policy.breaker.state is State.OPEN
        assert "3 failures in a row, the last: silent" in policy.snapshot().breaker.cause

    virtual(main)


# ── cancellation ───────────────────────────────────────────────────────────────────────────────


def test_a_cancelled_probe_is_neutral_and_gives_its_permit_back(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        policy = a_policy(loop)

        async def hang(timeout_s: float) -> None:
            await asyncio.sleep(3600)

        async def raising(timeout_s: float) -> None:
            raise Boom

        def call(attempt: Callable[[float], Awaitable[None]]) -> Awaitable[object]:
            deadline = Deadline.after(2.0, loop.time())
            return policy.call(attempt, deadline=deadline, idempotent=True, classify=lambda _: SUCCESS)

        for _ in range(3):
            with pytest.raises(Boom):
                await call(raising)
        await asyncio.sleep(5.0)
        probe = asyncio.ensure_future(call(hang))
        await asyncio.sleep(0.1)
        assert isinstance(await call(hang), Withheld), "the only probe is out"
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert policy.breaker.state is State.HALF_OPEN
        assert policy.breaker.refusal(loop.time()) is None, "and free again"
        assert policy.bulkhead.in_use == 0

    virtual(main)


# ── rates ──────────────────────────────────────────────────────────────────────────────────────


async def test_aiobreaker_alone_never_opens_at_half_failing() -> None:
    alone = CircuitBreaker(fail_max=5)
    for _ in range(500):
        with pytest.raises(Boom):
            await alone.call_async(boom)
        await alone.call_async(fine)
    assert alone.current_state is CircuitBreakerState.CLOSED


def test_half_failing_opens_it_by_rate() -> None:
    breaker = a_breaker(minimum_calls=10, failure_rate=0.5)
    for _ in range(5):
        assert breaker.state is State.CLOSED
        fail(breaker, 0.0)
        breaker.on_success(permitted(breaker, 0.0), 0.01, 0.0)
    assert breaker.state is State.OPEN
    assert breaker.snapshot(0.0).cause == "5 of 10 calls failed"
