"""What a participant does with one message about one operation: each cell of the protocol's table, on each store."""

from typing import Any

import pytest

from tally.protocol.operation import time_ms
from tally.protocol.participant import EARLY_MAX_MS, PROVEN_BY_PEER, TABLE, Answer, Message, Reason, Row, Status
from tests.contract.stores.scene import NOW, RECORDED, STALE, STRANGER, Scene, dead
from tests.support.stores import own_of

pytestmark = pytest.mark.asyncio(loop_scope="session")

HELD = (Row.LIVE, Row.VOID, Row.CANCELLED)
AFTER = {Status.LIVE: Row.LIVE, Status.VOID: Row.VOID, Status.CANCELLED: Row.CANCELLED}
REASON = {Row.VOID: Reason.RESOLVED, Row.CANCELLED: Reason.CANCELLED, Row.CLOSED: Reason.TOO_LATE}
REASON_OF_MESSAGE = {
    Message.RESOLVE: Reason.RESOLVED,
    Message.KILL: Reason.KILLED,
    Message.CANCEL: Reason.CANCELLED,
}


@pytest.mark.parametrize("row", Row)
@pytest.mark.parametrize("message", Message)
async def test_a_message_does_and_answers_what_its_cell_of_the_table_says_once_or_twice(
    scene: Scene, message: Message, row: Row
) -> None:
    op, pair = scene.op(), await scene.pair()
    await scene.held(row, op, pair)
    step = TABLE[message, row]

    verdicts = await scene.send(message, op, pair)

    if step.answer is Answer.NOTHING:
        assert verdicts == []
    else:
        assert [verdict.answer for verdict in verdicts] == [step.answer]
    if step.answer is Answer.DEAD:
        assert verdicts == [dead(REASON.get(row) or REASON_OF_MESSAGE[message])]
    assert await scene.row(op) is (row if step.write is None else AFTER[step.write])

    before = await scene.state()
    assert await scene.send(message, op, pair) == verdicts
    assert await scene.state() == before


@pytest.mark.parametrize("row", HELD)
@pytest.mark.parametrize("message", Message)
async def test_what_is_held_is_treated_alike_when_its_epoch_is_closed(scene: Scene, message: Message, row: Row) -> None:
    op, pair = scene.op(), await scene.pair()
    await scene.held(row, op, pair)
    await scene.close(NOW)
    step = TABLE[message, row]

    verdicts = await scene.send(message, op, pair)

    assert [verdict.answer for verdict in verdicts] == [] if message is Message.ACK else [step.answer]
    assert await scene.row(op) is (row if step.write is None else AFTER[step.write])


@pytest.mark.parametrize("row", Row)
@pytest.mark.parametrize("message", sorted(PROVEN_BY_PEER))
async def test_the_word_of_another_incarnation_of_the_peer_is_refused(scene: Scene, message: Message, row: Row) -> None:
    op, pair = scene.op(), await scene.pair()
    await scene.held(row, op, pair)
    before = await scene.state()

    verdicts = await (scene.kill if message is Message.KILL else scene.ack)(op, inc=STRANGER)

    assert verdicts == ([STALE] if message is Message.KILL else [])
    assert await scene.state() == before


async def test_a_record_of_an_unknown_entity_is_refused_for_ever(scene: Scene) -> None:
    op, pair = scene.op(), await scene.pair(entity=False)
    assert await scene.record((op, pair)) == [dead(Reason.NOT_FOUND)]
    await scene.kit.add(own_of(scene.side, *pair))
    assert await scene.record((op, pair)) == [dead(Reason.NOT_FOUND)]
    assert await scene.record((scene.op(), pair)) == [RECORDED]


async def test_whether_the_entity_of_the_peer_exists_is_the_peers_business(scene: Scene) -> None:
    pair = await scene.pair()
    assert await scene.record((scene.op(), pair)) == [RECORDED]


async def test_a_record_of_a_pair_that_is_taken_names_the_operation_that_has_it(scene: Scene) -> None:
    pair = await scene.pair()
    first, second = await scene.live(pair=pair), scene.op()
    assert await scene.record((second, pair)) == [dead(Reason.TAKEN, first)]
    held = (await scene.state()).rows[second]
    assert (held.status, held.left, held.right, held.other) == (Status.VOID, *pair, first)


@pytest.mark.parametrize("message", [Message.RECORD, Message.RESOLVE, Message.KILL, Message.CANCEL])
async def test_every_message_is_told_why_an_operation_was_refused_and_what_stood_in_its_way(
    scene: Scene, message: Message
) -> None:
    pair = await scene.pair()
    first, second = await scene.live(pair=pair), scene.op()
    await scene.record((second, pair))
    await scene.cancel(first)
    assert await scene.send(message, second, pair) == [dead(Reason.TAKEN, first)]


async def test_a_record_from_a_closed_epoch_is_too_late_and_leaves_no_row(scene: Scene) -> None:
    await scene.close(NOW)
    op, pair = scene.op(NOW), await scene.pair()
    assert await scene.record((op, pair)) == [dead(Reason.TOO_LATE)]
    assert (await scene.state()).rows == {}


async def test_the_first_operation_after_a_closed_epoch_is_recorded(scene: Scene) -> None:
    await scene.close(NOW)
    assert await scene.record((scene.op(NOW + 1), await scene.pair())) == [RECORDED]


async def test_a_record_from_too_far_in_the_future_is_refused_for_ever(scene: Scene) -> None:
    op, pair = scene.op(NOW + EARLY_MAX_MS + 1), await scene.pair()
    assert await scene.record((op, pair)) == [dead(Reason.TOO_EARLY)]
    assert await scene.record((op, pair), now_ms=time_ms(op)) == [dead(Reason.TOO_EARLY)]


async def test_a_record_from_a_clock_that_is_a_little_ahead_is_taken(scene: Scene) -> None:
    assert await scene.record((scene.op(NOW + EARLY_MAX_MS), await scene.pair())) == [RECORDED]


async def test_of_several_reasons_the_first_in_the_protocols_order_is_given(scene: Scene) -> None:
    early = NOW + EARLY_MAX_MS + 1
    unknown = await scene.pair(entity=False)
    taken = await scene.pair(capacity=1)
    first = await scene.live(pair=taken)
    assert await scene.record((scene.op(early), unknown)) == [dead(Reason.TOO_EARLY)]
    assert await scene.record((scene.op(), taken)) == [dead(Reason.TAKEN, first)]
    await scene.kit.remove(own_of(scene.side, *taken))
    assert await scene.record((scene.op(), taken)) == [dead(Reason.NOT_FOUND)]


async def test_an_operation_belongs_to_the_pair_it_was_recorded_with(scene: Scene) -> None:
    op, pair = scene.op(), await scene.pair()
    other = await scene.pair()
    await scene.record((op, pair))
    assert await scene.record((op, other)) == [RECORDED]
    held = (await scene.state()).rows[op]
    assert (held.left, held.right) == pair


@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
async def test_a_pair_can_be_recorded_again_when_its_operation_ended(scene: Scene, message: Message) -> None:
    pair = await scene.pair()
    first = await scene.live(pair=pair)
    await scene.send(message, first, pair)
    assert await scene.record((scene.op(), pair)) == [RECORDED]


@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL, Message.RESOLVE, Message.RECORD])
async def test_a_late_message_about_an_ended_operation_leaves_the_pairs_new_operation_alone(
    scene: Scene, message: Message
) -> None:
    pair = await scene.pair()
    first = await scene.live(pair=pair)
    await scene.cancel(first)
    second = await scene.live(pair=pair)
    await scene.send(message, first, pair)
    assert await scene.row(second) is Row.LIVE


async def test_every_reply_carries_the_mark(scene: Scene) -> None:
    await scene.close(NOW - 7)
    store = scene.kit.store
    mark = await store.mark()
    op = scene.op()
    replies: list[Any] = [
        await store.record([], NOW),
        await store.resolve([op]),
        await store.resolve([]),
        await store.kill([]),
        await store.cancel([]),
        await store.ack([]),
        await store.forward(1),
        await store.status([]),
        await store.find([]),
    ]
    assert {(reply.inc, reply.peer_inc, reply.closed) for reply in replies} == {(mark.inc, mark.peer_inc, NOW - 7)}
