"""Two messages about one pair or one operation, in two connections at once."""

from __future__ import annotations

import asyncio

import pytest

from tally.protocol.participant import Answer, Message, Reason, Row
from tests.contract.stores.scene import RECORDED, dead
from tests.integration.races.arena import Arena, on_any_side, on_any_side_and_with_seats, soon, with_seats

pytestmark = pytest.mark.asyncio(loop_scope="session")


@on_any_side_and_with_seats
async def test_of_two_records_of_one_pair_the_second_names_the_first(arena: Arena) -> None:
    pair = await arena.scene.pair(capacity=arena.capacity)
    first, second = arena.scene.ops(2)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((first, pair))
    recording = await arena.waiting(racer, racer.scene.record((second, pair)))
    await held.commit()
    assert await soon(recording) == [dead(Reason.TAKEN, first)]
    state = await arena.scene.state()
    assert state.live == {first}
    assert state.rows[second].other == first


@on_any_side_and_with_seats
async def test_the_second_record_of_a_pair_is_taken_if_the_first_is_rolled_back(arena: Arena) -> None:
    pair = await arena.scene.pair(capacity=arena.capacity)
    first, second = arena.scene.ops(2)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((first, pair))
    recording = await arena.waiting(racer, racer.scene.record((second, pair)))
    await held.rollback()
    assert await soon(recording) == [RECORDED]
    state = await arena.scene.state()
    assert state.live == {second}
    assert all(taken == 1 for _, taken in state.seats.values())


@on_any_side_and_with_seats
async def test_a_record_that_arrives_twice_at_once_is_recorded_once(arena: Arena) -> None:
    pair, op = await arena.scene.pair(capacity=arena.capacity), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    assert await held.scene.record((op, pair)) == [RECORDED]
    recording = await arena.waiting(racer, racer.scene.record((op, pair)))
    await held.commit()
    assert await soon(recording) == [RECORDED]
    state = await arena.scene.state()
    assert state.live == {op}
    assert all(taken == 1 for _, taken in state.seats.values())


@on_any_side
async def test_the_others_of_a_batch_are_recorded_when_one_of_them_waited_and_lost(arena: Arena) -> None:
    taken, free = await arena.scene.pair(), await arena.scene.pair()
    first, second, third = arena.scene.ops(3)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((first, taken))
    recording = await arena.waiting(racer, racer.scene.record((third, free), (second, taken)))
    await held.commit()
    assert await soon(recording) == [RECORDED, dead(Reason.TAKEN, first)]


@on_any_side_and_with_seats
@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
async def test_what_ends_an_operation_waits_for_its_record_in_flight(arena: Arena, message: Message) -> None:
    pair, op = await arena.scene.pair(capacity=arena.capacity), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((op, pair))
    ending = await arena.waiting(racer, racer.scene.send(message, op, pair))
    await held.commit()
    assert [verdict.answer for verdict in await soon(ending)] == [Answer.DEAD]
    state = await arena.scene.state()
    assert state.live == set()
    assert all(taken == 0 for _, taken in state.seats.values())
    assert await arena.scene.row(op) is (Row.VOID if message is Message.KILL else Row.CANCELLED)


@on_any_side
async def test_resolve_waits_for_a_record_in_flight_and_finds_it_recorded(arena: Arena) -> None:
    pair, op = await arena.scene.pair(), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((op, pair))
    resolving = await arena.waiting(racer, racer.scene.resolve(op))
    await held.commit()
    assert await soon(resolving) == [RECORDED]


@on_any_side_and_with_seats
@pytest.mark.parametrize(
    ("message", "why"),
    [
        (Message.RESOLVE, Reason.RESOLVED),
        (Message.KILL, Reason.KILLED),
        (Message.CANCEL, Reason.CANCELLED),
    ],
)
async def test_a_record_waits_for_its_fence_in_flight_and_is_dead(arena: Arena, message: Message, why: Reason) -> None:
    pair, op = await arena.scene.pair(capacity=arena.capacity), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.send(message, op, pair)
    recording = await arena.waiting(racer, racer.scene.record((op, pair)))
    await held.commit()
    assert await soon(recording) == [dead(why)]
    assert all(taken == 0 for _, taken in (await arena.scene.state()).seats.values())


@on_any_side
@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
async def test_two_that_end_one_operation_at_once_end_it_once(arena: Arena, message: Message) -> None:
    pair = await arena.scene.pair(capacity=3)
    op = await arena.scene.live(pair=pair)
    held, racer = await arena.held(), await arena.racer()
    first = await held.scene.send(message, op, pair)
    ending = await arena.waiting(racer, racer.scene.send(Message.KILL, op, pair))
    await held.commit()
    assert await soon(ending) == first
    assert all(taken == 0 for _, taken in (await arena.scene.state()).seats.values())


@on_any_side
async def test_a_pair_that_ends_in_flight_is_taken_until_then_and_free_afterwards(arena: Arena) -> None:
    pair = await arena.scene.pair()
    old = await arena.scene.live(pair=pair)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.cancel(old)
    new = racer.scene.op()
    recording = await arena.waiting(racer, racer.scene.record((new, pair)))
    await held.commit()
    assert await soon(recording) == [RECORDED]
    assert (await arena.scene.state()).live == {new}


@with_seats
async def test_concurrent_batches_get_exactly_the_seats_there_are(arena: Arena) -> None:
    batches, size, seats = 6, 4, 10
    entity, pairs = await arena.scene.pairs_of_one(batches * size + 1, capacity=seats + 1)
    held, racers = await arena.held(), [await arena.racer() for _ in range(batches)]
    assert await held.scene.record((arena.scene.op(), pairs.pop())) == [RECORDED]
    tasks = [
        await arena.waiting(
            racer, racer.scene.record(*[(arena.scene.op(), pair) for pair in pairs[i * size : (i + 1) * size]])
        )
        for i, racer in enumerate(racers)
    ]
    await held.commit()
    verdicts = [verdict for batch in await asyncio.gather(*map(soon, tasks)) for verdict in batch]
    assert verdicts.count(RECORDED) == seats
    assert verdicts.count(dead(Reason.FULL)) == batches * size - seats
    assert await arena.scene.taken(entity) == seats + 1
