"""Incarnations: what a peer's restore changes here, and what this side does while it is being restored itself."""

from collections.abc import Awaitable, Callable

import pytest

from tally.halves.store import FIRST_INC, Restoring
from tally.protocol import messages as wire
from tally.protocol.participant import Reason, Row
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, STALE, Scene, dead
from tests.support.stores import inc_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

NEW = inc_id(7)


async def test_two_new_databases_know_one_another(scene: Scene) -> None:
    mark = await scene.kit.store.mark()
    assert (mark.inc, mark.peer_inc) == (FIRST_INC[scene.side], FIRST_INC[scene.side.peer])
    assert (mark.closed, mark.settled, mark.restoring) == (0, 0, False)


async def test_rejoin_hands_over_all_that_is_live_in_order(scene: Scene) -> None:
    pairs = [await scene.pair() for _ in range(4)]
    ops = [await scene.live(NOW - i, pair) for i, pair in enumerate(pairs)]
    await scene.cancel(ops[0])
    await scene.kill(ops[2])
    await scene.close(NOW - 1)
    reply = await scene.kit.store.rejoin(wire.Rejoin(NEW))
    assert (reply.inc, reply.closed) == (FIRST_INC[scene.side], NOW - 1)
    assert reply.live == [wire.LiveItem(ops[3], *pairs[3]), wire.LiveItem(ops[1], *pairs[1])]


async def test_after_a_rejoin_only_proofs_of_the_new_incarnation_count(scene: Scene) -> None:
    op, cancelled = await scene.live(), await scene.live()
    await scene.cancel(cancelled)
    await scene.kit.store.rejoin(wire.Rejoin(NEW))
    assert await scene.kill(op) == [STALE]
    await scene.ack(cancelled)
    assert await scene.row(cancelled) is Row.CANCELLED
    assert await scene.kill(op, inc=NEW) == [dead(Reason.KILLED)]
    await scene.ack(cancelled, inc=NEW)
    assert await scene.row(cancelled) is Row.VOID


async def test_the_latest_rejoin_counts(scene: Scene) -> None:
    op = await scene.live()
    await scene.kit.store.rejoin(wire.Rejoin(NEW))
    await scene.kit.store.rejoin(wire.Rejoin(inc_id(8)))
    assert (await scene.kit.store.mark()).peer_inc == inc_id(8)
    assert await scene.kill(op, inc=NEW) == [STALE]


async def test_a_side_that_is_restoring_serves_no_message_and_changes_nothing(scene: Scene) -> None:
    pair = await scene.pair()
    op, cancelled = await scene.live(100, pair), await scene.live(100)
    await scene.cancel(cancelled)
    await scene.kit.set_restoring(True)
    before = await scene.state()
    store = scene.kit.store
    messages: dict[str, Callable[[], Awaitable[object]]] = {
        "record": lambda: store.record([wire.RecordItem(scene.op(), *pair)], NOW),
        "record nothing": lambda: store.record([], NOW),
        "resolve": lambda: store.resolve([scene.op()]),
        "resolve nothing": lambda: store.resolve([]),
        "kill": lambda: store.kill([wire.ProofItem(op, scene.peer_inc)]),
        "cancel": lambda: store.cancel([op]),
        "ack": lambda: store.ack([wire.ProofItem(cancelled, scene.peer_inc)]),
        "forward": lambda: store.forward(10),
        "close": lambda: store.close(wire.Close(200, None, 10)),
        "rejoin": lambda: store.rejoin(wire.Rejoin(NEW)),
        "status": lambda: store.status([op]),
        "find": lambda: store.find([wire.PairItem(*pair)]),
        "list own": lambda: store.list(wire.List(scene.side.value, [wire.ListItem(pair[0], None, 1)])),
        "list peer": lambda: store.list(wire.List(scene.side.peer.value, [wire.ListItem(pair[0], None, 1)])),
        "list nothing": lambda: store.list(wire.List("left", [])),
    }
    if scene.side is Side.RIGHT:
        messages["settle"] = lambda: store.settle(wire.Settle(0, 200, FIRST_INC[Side.RIGHT], [op]))
    served = []
    for name, send in messages.items():
        try:
            await send()
        except Restoring:
            continue
        served.append(name)
    assert served == []
    assert await scene.state() == before


async def test_the_mark_can_be_read_while_restoring(scene: Scene) -> None:
    await scene.kit.set_restoring(True)
    assert (await scene.kit.store.mark()).restoring


async def test_a_side_serves_again_when_it_is_restored(scene: Scene) -> None:
    await scene.kit.set_restoring(True)
    await scene.kit.set_restoring(False)
    await scene.live()
