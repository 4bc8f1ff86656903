from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tally.resilience.bulkhead import Bulkhead, BulkheadSettings

T = TypeVar("T")
Virtual = Callable[[Callable[[], Awaitable[T]]], T]


def a_bulkhead(concurrency: int = 1, queue: int = 2, wait_max_s: float = 10.0) -> Bulkhead:
    return Bulkhead(BulkheadSettings(concurrency=concurrency, queue=queue, wait_max_s=wait_max_s))


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_so_many_enter_and_no_more() -> None:
    bulkhead = a_bulkhead(concurrency=3)
    assert [bulkhead.try_enter() for _ in range(5)] == [True, True, True, False, False]
    assert bulkhead.in_use == 3
    bulkhead.leave()
    assert bulkhead.try_enter()


def test_a_place_given_back_twice_is_a_fault() -> None:
    with pytest.raises(RuntimeError, match="nobody is inside"):
        a_bulkhead().leave()


def test_who_waits_longest_enters_first(virtual: Virtual[None]) -> None:
    async def main() -> None:
        bulkhead, order = a_bulkhead(queue=5), []

        async def caller(name: int) -> None:
            assert await bulkhead.enter(10.0)
            order.append(name)

        assert bulkhead.try_enter()
        callers = [asyncio.ensure_future(caller(name)) for name in range(5)]
        await settled()
        assert bulkhead.queued == 5
        for _ in range(5):
            bulkhead.leave()
            await settled()
        await asyncio.gather(*callers)
        assert order == [0, 1, 2, 3, 4]
        assert (bulkhead.in_use, bulkhead.queued) == (1, 0)

    virtual(main)


def test_nobody_overtakes_the_queue(virtual: Virtual[None]) -> None:
    async def main() -> None:
        bulkhead = a_bulkhead()
        bulkhead.try_enter()
        first = asyncio.ensure_future(bulkhead.enter(10.0))
        await settled()
        bulkhead.leave()
        assert not bulkhead.try_enter(), "the place is promised already"
        assert await first

    virtual(main)


def test_a_full_queue_turns_away_at_once(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bulkhead = a_bulkhead(queue=1)
        bulkhead.try_enter()
        waiting = asyncio.ensure_future(bulkhead.enter(10.0))
        await settled()
        assert bulkhead.full
        before_s = loop.time()
        assert not await bulkhead.enter(10.0)
        assert loop.time() == before_s
        assert bulkhead.rejected == 1
        bulkhead.leave()
        assert await waiting

    virtual(main)


@pytest.mark.parametrize(("wait_s", "wait_max_s", "waited_s"), [(0.5, 10.0, 0.5), (10.0, 2.0, 2.0), (0.0, 5.0, 0.0)])
def test_the_wait_is_bounded_by_the_deadline_and_by_the_bulkhead(
    virtual: Virtual[None], wait_s: float, wait_max_s: float, waited_s: float
) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        bulkhead = a_bulkhead(wait_max_s=wait_max_s)
        bulkhead.try_enter()
        before_s = loop.time()
        assert not await bulkhead.enter(wait_s)
        assert loop.time() - before_s == pytest.approx(waited_s)
        assert (bulkhead.in_use, bulkhead.queued) == (1, 0)

    virtual(main)


def test_a_cancelled_wait_leaves_the_queue(virtual: Virtual[None]) -> None:
    async def main() -> None:
        bulkhead = a_bulkhead()
        bulkhead.try_enter()
        waiting = asyncio.ensure_future(bulkhead.enter(10.0))
        await settled()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (bulkhead.in_use, bulkhead.queued) == (1, 0)

    virtual(main)


def test_a_place_granted_to_one_cancelled_in_the_same_turn_goes_to_the_next(virtual: Virtual[None]) -> None:
    async def main() -> None:
        bulkhead = a_bulkhead()
        bulkhead.try_enter()
        first = asyncio.ensure_future(bulkhead.enter(10.0))
        second = asyncio.ensure_future(bulkhead.enter(10.0))
        await settled()
        bulkhead.leave()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert await second
        assert (bulkhead.in_use, bulkhead.queued) == (1, 0)

    virtual(main)


def test_a_place_that_comes_with_the_end_of_the_wait_is_taken(virtual: Virtual[None]) -> None:
    async def main() -> None:
        bulkhead = a_bulkhead()
        bulkhead.try_enter()
        asyncio.get_running_loop().call_later(1.0, bulkhead.leave)
        assert await bulkhead.enter(1.0)
        assert (bulkhead.in_use, bulkhead.queued) == (1, 0)

    virtual(main)


def test_no_place_is_ever_lost_whatever_is_cancelled(virtual: Virtual[None]) -> None:
    """300 callers, each cancelled or timed out or served at some moment: in the end all places are free."""

    async def main() -> None:
        chance = random.Random(11)
        bulkhead, most = a_bulkhead(concurrency=4, queue=20), 0

        async def caller() -> None:
            nonlocal most
            await asyncio.sleep(chance.random() * 3)
            if await bulkhead.enter(chance.choice([0.01, 0.1, 1.0])):
                most = max(most, bulkhead.in_use)
                try:
                    await asyncio.sleep(chance.choice([0.0, 0.05, 0.1]))
                finally:
                    bulkhead.leave()

        callers = [asyncio.ensure_future(caller()) for _ in range(300)]
        for _ in range(200):
            await asyncio.sleep(chance.random() * 0.02)
            chance.choice(callers).cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert most == 4
        assert (bulkhead.in_use, bulkhead.queued) == (0, 0)

    virtual(main)


@pytest.mark.parametrize(("field", "value"), [("concurrency", 0), ("queue", -1), ("wait_max_s", -1.0)])
def test_settings_that_make_no_sense_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=field):
        BulkheadSettings(**{field: value})  # type: ignore[arg-type]


def test_repr_is_a_sentence_of_state() -> None:
    bulkhead = a_bulkhead(concurrency=8)
    bulkhead.try_enter()
    assert repr(bulkhead) == "<Bulkhead 1 of 8 in use, 0 queued>"
