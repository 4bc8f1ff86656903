"""Deleting an entity takes its live halves with it, by operation, in the same transaction."""

import pytest

from tally.protocol.participant import Message, Reason, Row, Status
from tests.contract.stores.scene import NOW, RECORDED, Scene, dead

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_live_halves_of_a_deleted_entity_become_cancelled_and_are_forwarded(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(3)
    ops = [await scene.live(pair=pair) for pair in pairs]
    await scene.kit.remove(entity)
    rows = (await scene.state()).rows
    assert {(rows[op].status, rows[op].why) for op in ops} == {(Status.CANCELLED, Reason.DELETED)}
    assert [(rows[op].left, rows[op].right) for op in ops] == pairs
    assert await scene.forward() == sorted(ops)


async def test_halves_of_other_entities_stay(scene: Scene) -> None:
    entity, (gone,) = await scene.pairs_of_one(1)
    await scene.live(pair=gone)
    kept = await scene.live()
    await scene.kit.remove(entity)
    assert await scene.row(kept) is Row.LIVE


async def test_dead_halves_stay_as_they_are_when_their_entity_goes(scene: Scene) -> None:
    entity, pairs = await scene.pairs_of_one(3)
    killed, cancelled = await scene.live(pair=pairs[0]), await scene.live(pair=pairs[1])
    holder, refused = await scene.live(pair=pairs[2]), scene.op()
    await scene.record((refused, pairs[2]))
    await scene.kill(killed)
    await scene.cancel(cancelled)
    before = (await scene.state()).rows
    await scene.kit.remove(entity)
    after = (await scene.state()).rows
    assert {op: row for op, row in after.items() if op != holder} == {
        op: row for op, row in before.items() if op != holder
    }


@pytest.mark.parametrize("message", [Message.RECORD, Message.RESOLVE, Message.KILL, Message.CANCEL])
async def test_every_message_is_told_that_the_entity_was_deleted(scene: Scene, message: Message) -> None:
    entity, (pair,) = await scene.pairs_of_one(1)
    op = await scene.live(pair=pair)
    await scene.kit.remove(entity)
    assert await scene.send(message, op, pair) == [dead(Reason.DELETED)]


async def test_a_pair_of_a_deleted_entity_is_not_found(scene: Scene) -> None:
    entity, (pair,) = await scene.pairs_of_one(1)
    await scene.live(pair=pair)
    await scene.kit.remove(entity)
    assert await scene.record((scene.op(), pair)) == [dead(Reason.NOT_FOUND)]


async def test_an_entity_that_returns_does_not_bring_its_halves_back(scene: Scene) -> None:
    entity, (pair,) = await scene.pairs_of_one(1, capacity=1)
    op = await scene.live(pair=pair)
    await scene.kit.remove(entity)
    await scene.kit.add(entity, 1)
    assert await scene.row(op) is Row.CANCELLED
    assert await scene.record((scene.op(), pair)) == [RECORDED]


async def test_deleting_what_does_not_exist_changes_nothing(scene: Scene) -> None:
    await scene.live(NOW)
    before = await scene.state()
    unknown = await scene.pair(entity=False)
    await scene.kit.remove(unknown[0])
    await scene.kit.remove(unknown[1])
    assert await scene.state() == before
