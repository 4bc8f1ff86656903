"""CLOSE and REJOIN wait for the messages in flight, and those that come later find the epoch closed; SETTLE waits for
what ends halves, and for nothing else."""

from __future__ import annotations

import pytest

from tally.halves.store import FIRST_INC
from tally.protocol import messages as wire
from tally.protocol.participant import Message, Reason, Row
from tests.contract.stores.scene import NOW, RECORDED, STALE, dead
from tests.integration.races.arena import Arena, on_any_side, on_the_right, soon
from tests.support.stores import inc_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


@on_any_side
async def test_close_waits_for_a_record_in_flight_and_lists_it(arena: Arena) -> None:
    pair, op = await arena.scene.pair(), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    assert await held.scene.record((op, pair)) == [RECORDED]
    closing = await arena.waiting(racer, racer.scene.close(NOW))
    await held.commit()
    assert (await soon(closing)).live == [op]


@on_any_side
async def test_close_does_not_list_a_record_that_is_rolled_back(arena: Arena) -> None:
    pair, op = await arena.scene.pair(), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((op, pair))
    closing = await arena.waiting(racer, racer.scene.close(NOW))
    await held.rollback()
    assert (await soon(closing)).live == []
    assert await arena.scene.record((op, pair)) == [dead(Reason.TOO_LATE)]


@on_any_side
async def test_a_record_that_comes_while_close_waits_is_behind_it_and_refused(arena: Arena) -> None:
    first, second = await arena.scene.pair(), await arena.scene.pair()
    in_flight, late = arena.scene.ops(2)
    held, closer, recorder = await arena.held(), await arena.racer(), await arena.racer()
    await held.scene.record((in_flight, first))
    closing = await arena.waiting(closer, closer.scene.close(NOW))
    recording = await arena.waiting(recorder, recorder.scene.record((late, second)))
    await held.commit()
    assert (await soon(closing)).live == [in_flight]
    assert await soon(recording) == [dead(Reason.TOO_LATE)]
    assert (await arena.scene.state()).live == {in_flight}


@on_any_side
@pytest.mark.parametrize("message", [Message.RECORD, Message.RESOLVE, Message.KILL, Message.CANCEL])
async def test_what_comes_while_close_is_in_flight_waits_and_sees_the_epoch_closed(
    arena: Arena, message: Message
) -> None:
    pair, op = await arena.scene.pair(), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.close(NOW)
    sending = await arena.waiting(racer, racer.scene.send(message, op, pair))
    await held.commit()
    assert await soon(sending) == [dead(Reason.TOO_LATE)]
    assert (await arena.scene.state()).rows == {}


@on_any_side
@pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
async def test_close_waits_for_what_ends_a_half_and_does_not_list_it(arena: Arena, message: Message) -> None:
    pair = await arena.scene.pair()
    op = await arena.scene.live(pair=pair)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.send(message, op, pair)
    closing = await arena.waiting(racer, racer.scene.close(NOW))
    await held.commit()
    assert (await soon(closing)).live == []


@on_the_right
@pytest.mark.parametrize("ending", ["kill", "cancel", "remove"])
async def test_settle_waits_for_what_ends_a_half_and_does_not_confirm_it(arena: Arena, ending: str) -> None:
    entity, (pair,) = await arena.scene.pairs_of_one(1)
    op = await arena.scene.live(pair=pair)
    await arena.scene.close(NOW)
    held, racer = await arena.held(), await arena.racer()
    await (held.kit.remove(entity) if ending == "remove" else getattr(held.scene, ending)(op))
    settling = await arena.waiting(racer, racer.scene.settle(0, NOW, [op]))
    await held.commit()
    settled = await soon(settling)
    assert (settled.applied, settled.confirmed) == (True, 0)
    assert await arena.scene.kit.told() == []


@on_the_right
@pytest.mark.parametrize("ending", ["kill", "cancel", "remove"])
async def test_what_ends_a_half_while_settle_is_in_flight_is_told_after_it_was_confirmed(
    arena: Arena, ending: str
) -> None:
    entity, (pair,) = await arena.scene.pairs_of_one(1)
    op = await arena.scene.live(pair=pair)
    await arena.scene.close(NOW)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.settle(0, NOW, [op])
    end = racer.kit.remove(entity) if ending == "remove" else getattr(racer.scene, ending)(op)
    ending_it = await arena.waiting(racer, end)
    await held.commit()
    await soon(ending_it)
    assert await arena.scene.kit.told() == [("confirmed", op), ("cancelled", op)]


@on_the_right
async def test_record_goes_on_while_settle_is_in_flight(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.close(NOW)
    pair, later = await arena.scene.pair(), arena.scene.op(NOW + 1)
    held, racer = await arena.held(), await arena.racer()
    assert (await held.scene.settle(0, NOW, [op])).confirmed == 1
    assert await soon(arena.start(racer.scene.record((later, pair), now_ms=NOW + 1))) == [RECORDED]
    await held.commit()
    assert (await arena.scene.state()).live == {op, later}


@on_the_right
async def test_settle_does_not_wait_for_a_record_in_flight(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.close(NOW)
    pair, later = await arena.scene.pair(), arena.scene.op(NOW + 1)
    held, racer = await arena.held(), await arena.racer()
    assert await held.scene.record((later, pair), now_ms=NOW + 1) == [RECORDED]
    assert (await soon(arena.start(racer.scene.settle(0, NOW, [op])))).confirmed == 1
    await held.commit()
    assert (await arena.scene.state()).live == {op, later}


@on_the_right
async def test_close_waits_for_a_settle_in_flight(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.close(NOW)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.settle(0, NOW, [op])
    closing = await arena.waiting(racer, racer.scene.close(NOW + 1))
    await held.commit()
    assert (await soon(closing)).settled == NOW


@on_the_right
async def test_of_two_settlers_one_confirms(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.close(NOW)
    held, racer = await arena.held(), await arena.racer()
    assert (await held.scene.settle(0, NOW, [op])).applied
    settling = await arena.waiting(racer, racer.scene.settle(0, NOW, [op]))
    await held.commit()
    assert not (await soon(settling)).applied
    assert await arena.scene.kit.told() == [("confirmed", op)]


@on_the_right
async def test_the_second_settler_confirms_if_the_first_fails(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.close(NOW)
    held, racer = await arena.held(), await arena.racer()
    await held.scene.settle(0, NOW, [op])
    settling = await arena.waiting(racer, racer.scene.settle(0, NOW, [op]))
    await held.rollback()
    assert (await soon(settling)).applied
    assert await arena.scene.kit.told() == [("confirmed", op)]


@on_any_side
async def test_rejoin_waits_for_a_record_in_flight_and_hands_it_over(arena: Arena) -> None:
    pair, op = await arena.scene.pair(), arena.scene.op()
    held, racer = await arena.held(), await arena.racer()
    await held.scene.record((op, pair))
    rejoining = await arena.waiting(racer, racer.kit.store.rejoin(wire.Rejoin(inc_id(3))))
    await held.commit()
    assert (await soon(rejoining)).live == [wire.LiveItem(op, *pair)]


@on_any_side
async def test_a_kill_that_waited_for_a_rejoin_is_judged_by_the_new_incarnation(arena: Arena) -> None:
    op = await arena.scene.live()
    held, racer = await arena.held(), await arena.racer()
    await held.kit.store.rejoin(wire.Rejoin(inc_id(3)))
    killing = await arena.waiting(racer, racer.scene.kill(op, inc=FIRST_INC[arena.side.peer]))
    await held.commit()
    assert await soon(killing) == [STALE]
    assert await arena.scene.row(op) is Row.LIVE


@on_any_side
async def test_an_ack_that_waited_for_a_rejoin_is_judged_by_the_new_incarnation(arena: Arena) -> None:
    op = await arena.scene.live()
    await arena.scene.cancel(op)
    held, racer = await arena.held(), await arena.racer()
    await held.kit.store.rejoin(wire.Rejoin(inc_id(3)))
    acking = await arena.waiting(racer, racer.scene.ack(op, inc=FIRST_INC[arena.side.peer]))
    await held.commit()
    await soon(acking)
    assert await arena.scene.row(op) is Row.CANCELLED
