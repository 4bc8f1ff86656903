from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tally.resilience.hedge import Durations, Hedge, HedgeSettings, hedged

exact = settings(deadline=None, derandomize=True)

T = TypeVar("T")
Virtual = Callable[[Callable[[], Awaitable[T]]], T]


def a_hedge(**settings: Any) -> Hedge:
    """Knows of 1000 calls, and that 95 of 100 take up to 0.095 s."""
    defaults: dict[str, Any] = {"enabled": True, "sample_calls": 1000}
    hedge = Hedge(HedgeSettings(**{**defaults, **settings}))
    for number in range(1000):
        hedge.answered((number % 100) / 1000)
        hedge.called()
    return hedge


class Copies:
    """An attempt whose copies take the given times and end in the given ways."""

    def __init__(self, *plans: tuple[float, object]) -> None:
        self.plans = list(plans)
        self.begun = 0
        self.cancelled = 0

    async def __call__(self) -> object:
        seconds, end = self.plans[self.begun]
        self.begun += 1
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(end, Exception):
            raise end
        return end


def race(virtual: Virtual[Any], hedge: Hedge, copies: Copies, **arguments: Any) -> tuple[object, float]:
    async def main() -> tuple[object, float]:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        answer = await hedged(copies, hedge, clock=loop.time, **arguments)
        assert asyncio.all_tasks() == {asyncio.current_task()}, "nobody is left running"
        return answer, loop.time() - begun_s

    return virtual(main)  # type: ignore[no-any-return]


# ── deciding ───────────────────────────────────────────────────────────────────────────────────


@exact
@given(durations=st.lists(st.floats(0, 10, allow_nan=False), min_size=1, max_size=80), size=st.integers(1, 20))
def test_quantiles_are_those_of_the_last_durations_sorted(durations: list[float], size: int) -> None:
    window = Durations(size)
    for duration_s in durations:
        window.add(duration_s)
    kept = sorted(durations[-size:])
    assert len(window) == len(kept)
    for share in (0.0, 0.5, 0.95, 1.0):
        assert window.quantile(share) == kept[min(int(share * len(kept)), len(kept) - 1)]


def test_the_second_copy_is_due_at_the_percentile() -> None:
    assert a_hedge().called() == pytest.approx(0.095)


def test_off_by_default() -> None:
    assert not HedgeSettings().enabled
    assert a_hedge(enabled=False).called() is None


def test_too_few_measurements_hedge_nothing() -> None:
    hedge = Hedge(HedgeSettings(enabled=True, sample_calls_min=50))
    for _ in range(49):
        hedge.answered(0.1)
    assert hedge.called() is None
    hedge.answered(0.1)
    assert hedge.called() == 0.1


@exact
@given(turns=st.lists(st.tuples(st.integers(0, 200), st.integers(0, 50)), max_size=20))
def test_in_any_stretch_no_more_than_the_share_and_a_burst_is_hedged(turns: list[tuple[int, int]]) -> None:
    hedge = Hedge(HedgeSettings(enabled=True, share_max=0.05, burst_max=3))
    counts = []
    for called, wished in turns:
        for _ in range(called):
            hedge.called()
        counts.append((called, sum(hedge.try_hedge() for _ in range(wished))))
    for begin, end in itertools.combinations(range(len(counts) + 1), 2):
        calls, copies = (sum(counted) for counted in zip(*counts[begin:end], strict=True))
        burst = 3 if begin else 0  # nothing is earned before the first call
        assert copies <= 0.05 * calls + burst + 1e-9


def test_what_calls_earn_is_spent_when_it_is_due() -> None:
    hedge = a_hedge()
    assert [hedge.try_hedge() for _ in range(4)] == [True, True, True, False]
    for _ in range(20):
        assert not hedge.try_hedge()
        hedge.called()
    assert hedge.try_hedge()


# ── racing ─────────────────────────────────────────────────────────────────────────────────────


def test_a_fast_first_copy_stays_alone(virtual: Virtual[Any]) -> None:
    copies = Copies((0.05, "first"))
    assert race(virtual, a_hedge(), copies) == ("first", pytest.approx(0.05))
    assert copies.begun == 1


def test_a_slow_first_copy_loses_to_the_second_and_is_cancelled(virtual: Virtual[Any]) -> None:
    copies = Copies((3.0, "first"), (0.02, "second"))
    assert race(virtual, a_hedge(), copies) == ("second", pytest.approx(0.115))
    assert (copies.begun, copies.cancelled) == (2, 1)


def test_a_slow_first_copy_may_still_win(virtual: Virtual[Any]) -> None:
    copies = Copies((0.1, "first"), (5.0, "second"))
    assert race(virtual, a_hedge(), copies) == ("first", pytest.approx(0.1))
    assert copies.cancelled == 1


def test_without_budget_the_first_copy_stays_alone(virtual: Virtual[Any]) -> None:
    hedge = a_hedge()
    while hedge.try_hedge():
        pass
    copies = Copies((3.0, "first"))
    assert race(virtual, hedge, copies) == ("first", pytest.approx(3.0))


def test_a_failed_copy_does_not_beat_one_that_still_runs(virtual: Virtual[Any]) -> None:
    copies = Copies((0.2, OSError("first")), (0.3, "second"))
    assert race(virtual, a_hedge(), copies)[0] == "second"


def test_an_answer_that_is_not_accepted_does_not_beat_one_that_still_runs(virtual: Virtual[Any]) -> None:
    copies = Copies((0.2, "overloaded"), (0.3, "fine"))
    assert race(virtual, a_hedge(), copies, accept=lambda answer: answer == "fine")[0] == "fine"


def test_if_both_fail_the_first_one_s_error_is_raised(virtual: Virtual[Any]) -> None:
    first, second = OSError("first"), OSError("second")
    with pytest.raises(OSError) as caught:
        race(virtual, a_hedge(), Copies((0.2, first), (0.01, second)))
    assert caught.value is first


def test_a_fast_failure_is_not_measured_as_a_fast_answer(virtual: Virtual[Any]) -> None:
    hedge = Hedge(HedgeSettings(enabled=True, sample_calls_min=1))
    with pytest.raises(OSError):
        race(virtual, hedge, Copies((0.001, OSError())))
    assert hedge.called() is None


def test_a_cancelled_race_cancels_both(virtual: Virtual[Any]) -> None:
    copies = Copies((50.0, "first"), (50.0, "second"))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        racing = asyncio.ensure_future(hedged(copies, a_hedge(), clock=loop.time))
        await asyncio.sleep(1.0)
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main)
    assert (copies.begun, copies.cancelled) == (2, 2)


@pytest.mark.parametrize("answered", [True, False])
def test_a_cancelled_race_ends_after_both_copies_and_is_not_forgotten(answered: bool, virtual: Virtual[Any]) -> None:
    """Not even one that takes its time to end is left behind, nor if the race is cancelled again meanwhile."""
    ended = []

    async def main() -> None:
        loop, copies = asyncio.get_running_loop(), itertools.count()

        async def stubborn() -> str:
            if next(copies) and answered:
                return "second"  # and the first one's end is being waited for when the cancellation comes
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(3.0)
                ended.append(loop.time())
            return "never"

        racing = asyncio.ensure_future(hedged(stubborn, a_hedge(), clock=loop.time))
        await asyncio.sleep(1.0)
        racing.cancel()
        await asyncio.sleep(0.1)
        racing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await racing
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main)
    assert len(ended) == (1 if answered else 2)


def test_it_cuts_the_tail_for_five_calls_in_a_hundred(virtual: Virtual[Any]) -> None:
    """3 % of calls take 1 s, the others 10 ms: with hedging the 99th percentile is out of the tail."""

    async def p99_s(enabled: bool) -> tuple[float, int]:
        loop, chance, sent = asyncio.get_running_loop(), random.Random(3), 0
        hedge = Hedge(HedgeSettings(enabled=enabled))

        async def read() -> None:
            nonlocal sent
            sent += 1
            await asyncio.sleep(1.0 if chance.random() < 0.03 else 0.01 * chance.uniform(0.5, 1.5))

        took = []
        for _ in range(2000):
            begun_s = loop.time()
            await hedged(read, hedge, clock=loop.time)
            took.append(loop.time() - begun_s)
        return sorted(took)[1980], sent

    plain_s, _ = virtual(lambda: p99_s(False))
    hedged_s, sent = virtual(lambda: p99_s(True))
    assert plain_s == pytest.approx(1.0)
    assert hedged_s < 0.05
    assert sent <= 2000 * 1.05


@pytest.mark.parametrize(
    ("field", "value"),
    [("quantile", 1.0), ("share_max", 0.0), ("sample_calls_min", 0), ("burst_max", 0), ("delay_min_s", -1.0)],
)
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        HedgeSettings(**{field: value})  # type: ignore[arg-type]
