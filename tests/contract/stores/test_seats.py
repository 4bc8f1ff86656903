"""Seats are live halves, counted in the transaction that makes or ends them, on the side that declares them."""

import pytest

from tally.protocol.participant import Message, Reason
from tests.contract.stores.scene import NOW, RECORDED, STRANGER, Scene, dead
from tests.support.stores import SEATED_PARTIES, Party, party_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(params=SEATED_PARTIES, ids=party_id)
def party(request: pytest.FixtureRequest) -> Party:
    found: Party = request.param
    return found


async def test_the_seat_after_the_last_is_refused_for_ever(scene: Scene) -> None:
    entity, (first, second) = await scene.pairs_of_one(2, capacity=1)
    holder, late = await scene.live(pair=first), scene.op()
    assert await scene.record((late, second)) == [dead(Reason.FULL)]
    await scene.cancel(holder)
    assert await scene.record((late, second)) == [dead(Reason.FULL)]
    assert await scene.taken(entity) == 0


async def test_an_entity_of_no_seats_takes_nobody(scene: Scene) -> None:
    assert await scene.record((scene.op(), await scene.pair(capacity=0))) == [dead(Reason.FULL)]


async def test_an_entity_without_capacity_takes_everybody_and_is_not_counted(scene: Scene) -> None:
    _, pairs = await scene.pairs_of_one(20)
    assert await scene.record(*[(scene.op(), pair) for pair in pairs]) == [RECORDED] * 20
    assert (await scene.state()).seats == {}


@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
async def test_what_ends_gives_its_seat_back_once(scene: Scene, message: Message) -> None:
    entity, (first, second) = await scene.pairs_of_one(2, capacity=1)
    op = await scene.live(pair=first)
    for _ in range(3):
        await scene.send(message, op, first)
    assert await scene.taken(entity) == 0
    assert await scene.record((scene.op(), second)) == [RECORDED]


async def test_what_was_never_live_gives_no_seat_back(scene: Scene) -> None:
    entity, (first, second) = await scene.pairs_of_one(2, capacity=2)
    await scene.live(pair=first)
    fenced = scene.op()
    for message in (Message.RESOLVE, Message.KILL, Message.CANCEL, Message.ACK, Message.RECORD):
        await scene.send(message, fenced, second)
    assert await scene.taken(entity) == 1


async def test_a_stale_kill_frees_no_seat(scene: Scene) -> None:
    entity, (pair,) = await scene.pairs_of_one(1, capacity=1)
    await scene.kill(await scene.live(pair=pair), inc=STRANGER)
    assert await scene.taken(entity) == 1


async def test_ack_and_forgetting_free_no_seat_a_second_time(scene: Scene) -> None:
    entity, (first, second) = await scene.pairs_of_one(2, capacity=2)
    op = await scene.live(pair=first)
    await scene.live(pair=second)
    await scene.cancel(op)
    await scene.ack(op)
    await scene.close(NOW + 100_000)
    assert await scene.taken(entity) == 1


async def test_a_repeated_record_takes_no_second_seat(scene: Scene) -> None:
    entity, (pair,) = await scene.pairs_of_one(1, capacity=2)
    op = await scene.live(pair=pair)
    assert await scene.record((op, pair)) == [RECORDED]
    assert await scene.taken(entity) == 1


async def test_a_capacity_below_what_is_taken_is_refused(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(3, capacity=5)
    for pair in pairs:
        await scene.live(pair=pair)
    assert not await scene.kit.set_capacity(entity, 2)
    assert (await scene.state()).seats == {entity: (5, 3)}
    assert await scene.kit.set_capacity(entity, 3)
    assert await scene.record((scene.op(), ((await scene.pair())[0], entity))) == [dead(Reason.FULL)]


async def test_a_raised_capacity_admits_the_next(scene: Scene) -> None:
    entity, (first, second) = await scene.pairs_of_one(2, capacity=1)
    await scene.live(pair=first)
    assert await scene.kit.set_capacity(entity, 2)
    assert await scene.record((scene.op(), second)) == [RECORDED]


async def test_a_capacity_given_later_counts_those_who_are_there(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(4)
    ops = [await scene.live(pair=pair) for pair in pairs]
    await scene.cancel(ops[0])
    assert not await scene.kit.set_capacity(entity, 2)
    assert await scene.kit.set_capacity(entity, 3)
    assert (await scene.state()).seats == {entity: (3, 3)}
    assert await scene.record((scene.op(), pairs[0])) == [dead(Reason.FULL)]


async def test_a_capacity_taken_away_admits_everybody_and_counts_again_when_it_returns(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(3, capacity=1)
    await scene.live(pair=pairs[0])
    assert await scene.kit.set_capacity(entity, None)
    assert (await scene.state()).seats == {}
    assert await scene.record((scene.op(), pairs[1]), (scene.op(), pairs[2])) == [RECORDED, RECORDED]
    assert await scene.kit.set_capacity(entity, 3)
    assert (await scene.state()).seats == {entity: (3, 3)}


async def test_a_deleted_entity_takes_its_seats_with_it(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(2, capacity=2)
    for pair in pairs:
        await scene.live(pair=pair)
    await scene.kit.remove(entity)
    assert (await scene.state()).seats == {}
