"""The virtual loop keeps asyncio's promises, takes no time, and drops what belongs to the dead."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest

from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.processes import GONE, Process


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop(7)
    yield loop
    loop.close()


def _process(loop: VirtualLoop, name: str) -> Process:
    def escaped(who: str, error: BaseException) -> None:
        raise AssertionError(f"{who}: {error!r}")

    return Process(loop, name, escaped)


def _run(loop: VirtualLoop, work: Coroutine[Any, Any, Any]) -> Any:
    return loop.run_until_complete(work)


def test_an_hour_takes_no_time(loop: VirtualLoop) -> None:
    began_s = time.perf_counter()
    _run(loop, asyncio.sleep(3600))
    assert loop.time() == 3600
    assert time.perf_counter() - began_s < 1


def test_a_timeout_ends_what_is_too_slow(loop: VirtualLoop) -> None:
    async def work() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await asyncio.sleep(5)
        return loop.time()

    assert _run(loop, work()) == 2


def test_timers_of_one_moment_keep_their_order(loop: VirtualLoop) -> None:
    order: list[int] = []

    async def work() -> None:
        for i in range(5):
            loop.call_later(1, order.append, i)
        await asyncio.sleep(2)

    _run(loop, work())
    assert order == [0, 1, 2, 3, 4]


def test_callbacks_of_one_process_keep_their_order_and_processes_do_not(loop: VirtualLoop) -> None:
    order: list[tuple[str, int]] = []
    processes = [_process(loop, name) for name in "ab"]

    async def work() -> None:
        for i in range(20):
            for process in processes:
                process.call_soon(order.append, (process.name, i))
        await asyncio.sleep(1)

    _run(loop, work())
    for process in processes:
        assert [i for name, i in order if name == process.name] == list(range(20))
    assert [name for name, _ in order] != ["a", "b"] * 20


def test_the_dead_do_nothing_more(loop: VirtualLoop) -> None:
    done: list[str] = []
    process = _process(loop, "victim")

    async def victim() -> None:
        try:
            done.append("began")
            await asyncio.sleep(1)
            done.append("went on")
        finally:
            asyncio.get_running_loop().create_task(haunt())

    async def haunt() -> None:
        done.append("haunted")

    async def work() -> object:
        answer = asyncio.ensure_future(process.serve(victim(), 1))
        await asyncio.sleep(0.5)
        process.kill()
        result = await answer
        await asyncio.sleep(5)
        return result

    assert _run(loop, work()) is GONE
    assert done == ["began"]


def test_waiting_for_nothing_is_noticed(loop: VirtualLoop) -> None:
    async def work() -> None:
        await loop.create_future()

    task = loop.create_task(work())
    with pytest.raises(Stuck, match="nothing ever will be"):
        loop.run_forever()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)


def test_a_loop_that_does_not_wait_is_noticed(loop: VirtualLoop) -> None:
    async def work() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    task = loop.create_task(work())
    with pytest.raises(Stuck, match="and there are more"):
        loop.run_forever()
    task.cancel()
    loop._at_once = 0
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
