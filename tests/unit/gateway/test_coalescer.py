"""The coalescer: alone a request waits for nothing; what comes at once leaves at once; while a batch is in flight the
next one gathers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence

import pytest

from tally.gateway.coalescer import Coalescer
from tally.gateway.evidence import gather
from tally.halves.peer import Failed
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline


@pytest.fixture(autouse=True)
async def _no_call_outlives_its_test() -> AsyncIterator[None]:
    yield
    calls = asyncio.all_tasks() - {asyncio.current_task()}
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


SOON = Deadline(at_s=1e9)
CALL_S = 0.5


class Wire:
    """A batch call that a test ends by hand."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.deadlines: list[Deadline] = []
        self.replies: list[asyncio.Future[Sequence[int] | Failed]] = []

    async def send(self, items: Sequence[int], deadline: Deadline) -> Sequence[int] | Failed:
        self.batches.append(list(items))
        self.deadlines.append(deadline)
        self.replies.append(asyncio.get_running_loop().create_future())
        return await self.replies[-1]

    async def begun(self, count: int) -> None:
        while len(self.batches) < count:  # noqa: ASYNC110 - the batch says by itself when it is there
            await asyncio.sleep(0)


async def test_a_request_alone_leaves_at_once() -> None:
    wire = Wire()
    ticket = Coalescer(wire.send).submit(7, SOON)
    await wire.begun(1)
    wire.replies[0].set_result([70])
    assert (wire.batches, await ticket.future) == ([[7]], 70)


async def test_while_a_batch_is_in_flight_the_next_one_gathers() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=60)
    tickets = [coalescer.submit(0, SOON)]
    await wire.begun(1)
    tickets += [coalescer.submit(item, SOON) for item in (1, 2, 3)]
    wire.replies[0].set_result([0])
    await wire.begun(2)
    wire.replies[1].set_result([10, 20, 30])
    assert [await ticket.future for ticket in tickets] == [0, 10, 20, 30]
    assert wire.batches == [[0], [1, 2, 3]]


async def test_what_comes_at_once_leaves_at_once() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send)
    coalescer.submit(0, SOON)
    await asyncio.sleep(0)  # the turn of the loop in which the next request is handled
    coalescer.submit(1, SOON)
    await wire.begun(1)
    assert wire.batches == [[0, 1]]


async def test_requests_without_a_pause_do_not_hold_up_the_first_for_long() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send)
    began_s = asyncio.get_running_loop().time()
    for item in itertools.count():
        coalescer.submit(item, SOON)
        await asyncio.sleep(0)
        if wire.batches:
            break
    assert wire.batches[0][0] == 0 and asyncio.get_running_loop().time() - began_s < 1


@pytest.fixture
async def after_eight(monkeypatch: pytest.MonkeyPatch) -> tuple[Wire, Coalescer[int, int]]:
    """A coalescer to which a batch of eight has just come back, from a call so long that no stall is taken for one."""
    monkeypatch.setattr("tally.gateway.coalescer._HELD_MAX_S", 60)
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=60)
    for item in range(8):
        coalescer.submit(item, SOON)
    await wire.begun(1)
    await asyncio.sleep(CALL_S)
    wire.replies[0].set_result(list(range(8)))
    await asyncio.sleep(0)
    return wire, coalescer


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_few_that_come_back_to_many_wait_for_more(after_eight: tuple[Wire, Coalescer[int, int]]) -> None:
    wire, coalescer = after_eight
    for item in (8, 9, 10):
        coalescer.submit(item, SOON)
        await turns()
    assert len(wire.batches) == 1
    coalescer.submit(11, SOON)
    await turns()
    assert wire.batches[1:] == [[8, 9, 10, 11]]


async def test_a_few_wait_no_longer_than_a_call_takes(after_eight: tuple[Wire, Coalescer[int, int]]) -> None:
    wire, coalescer = after_eight
    began_s = asyncio.get_running_loop().time()
    coalescer.submit(8, SOON)
    await wire.begun(2)
    assert 0.15 < asyncio.get_running_loop().time() - began_s < 10
    wire.replies[1].set_result([80])
    await turns()
    coalescer.submit(9, SOON)
    await turns()
    assert wire.batches[1:] == [[8], [9]]  # many is over: alone, one waits for nothing


async def test_one_left_over_leaves_with_the_many_that_come_back(after_eight: tuple[Wire, Coalescer[int, int]]) -> None:
    wire, coalescer = after_eight
    for item in range(8, 16):
        coalescer.submit(item, SOON)
    await wire.begun(2)
    coalescer.submit(16, SOON)
    await asyncio.sleep(CALL_S)
    wire.replies[1].set_result(Failed(True, "x"))
    await turns()
    assert len(wire.batches) == 2
    for item in range(17, 24):
        coalescer.submit(item, SOON)
    await turns()
    assert wire.batches[2:] == [list(range(16, 24))]


async def test_a_batch_is_no_larger_than_it_may_be() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, batch_max=2, patience_s=60)
    coalescer.submit(0, SOON)
    await wire.begun(1)
    for item in (1, 2, 3):
        coalescer.submit(item, SOON)
    for count in (1, 2, 3):
        await wire.begun(count)
        wire.replies[-1].set_result(Failed(True, "x"))
    assert wire.batches == [[0], [1, 2], [3]]


async def test_a_stuck_batch_delays_the_next_by_no_more_than_the_patience() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=0.01)
    stuck = coalescer.submit(0, SOON)
    await wire.begun(1)
    next_one = coalescer.submit(1, SOON)
    async with asyncio.timeout(5):
        while len(wire.batches) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
    wire.replies[1].set_result([10])
    assert await next_one.future == 10 and not stuck.future.done()


async def test_batches_in_flight_are_bounded() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=0, in_flight_max=2)
    for item in range(3):
        coalescer.submit(item, SOON)
        await asyncio.sleep(0.005)
    assert wire.batches == [[0], [1]]


async def test_a_full_queue_refuses_without_sending() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, queue_max=1, patience_s=60)
    coalescer.submit(0, SOON)
    await wire.begun(1)
    coalescer.submit(1, SOON)
    refused = await coalescer.submit(2, SOON).future
    assert isinstance(refused, Failed) and not refused.sent


async def test_who_gave_up_before_it_left_never_leaves_and_knows_it() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=60)
    coalescer.submit(0, SOON)
    await wire.begun(1)
    withdrawn = (await gather({Side.LEFT: coalescer.submit(1, SOON)}, 0.01))[Side.LEFT]
    assert isinstance(withdrawn, Failed) and not withdrawn.sent
    wire.replies[0].set_result([0])
    await asyncio.sleep(0.005)
    assert wire.batches == [[0]]


async def test_who_gave_up_after_it_left_does_not_know_what_became_of_it() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send)
    silent = (await gather({Side.LEFT: coalescer.submit(0, SOON)}, 0.01))[Side.LEFT]
    assert isinstance(silent, Failed) and silent.sent


async def test_a_batch_has_the_latest_deadline_of_its_items() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send, patience_s=60)
    coalescer.submit(0, SOON)
    await wire.begun(1)
    coalescer.submit(1, Deadline(5.0))
    coalescer.submit(2, Deadline(9.0))
    wire.replies[0].set_result([0])
    await wire.begun(2)
    assert wire.deadlines[1] == Deadline(9.0)


async def test_a_reply_with_the_wrong_number_of_answers_is_an_unknown_outcome_for_all() -> None:
    wire = Wire()
    coalescer: Coalescer[int, int] = Coalescer(wire.send)
    ticket = coalescer.submit(0, SOON)
    await wire.begun(1)
    wire.replies[0].set_result([1, 2])
    told = await ticket.future
    assert isinstance(told, Failed) and told.sent
