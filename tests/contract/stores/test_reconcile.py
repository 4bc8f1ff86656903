"""A restored side applies its peer's answer to REJOIN. (test_equivalence.py does it in any situation.)"""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from tally.halves.store import Reconciled
from tally.protocol import messages as wire
from tally.protocol.participant import Reason, Row
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, Scene
from tests.support.stores import PostgresKit, inc_id, own_of

NEW, THEIRS = inc_id(7), inc_id(70)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def rejoined(
    scene: Scene, *live: tuple[UUID, tuple[UUID, UUID]], closed: int = 0, inc: UUID = NEW
) -> Reconciled | None:
    """This side is restored, and its peer has these live."""
    await scene.kit.set_restoring(True)
    assert await scene.kit.store.pend(inc)
    items = [wire.LiveItem(op, *pair) for op, pair in live]
    return await scene.kit.store.reconcile(wire.Rejoined(THEIRS, closed, items), inc)


async def test_what_is_live_at_the_peer_is_copied_and_holds_its_seat(scene: Scene) -> None:
    pair = await scene.pair(capacity=5)
    op = scene.op()
    assert await rejoined(scene, (op, pair)) == Reconciled([op], [], [], [])
    assert await scene.row(op) is Row.LIVE
    if scene.has_seats:
        assert await scene.taken(own_of(scene.side, *pair)) == 1


async def test_what_is_dead_here_stays_dead(scene: Scene) -> None:
    pairs = [await scene.pair() for _ in range(2)]
    cancelled, killed = [await scene.live(pair=pair) for pair in pairs]
    await scene.cancel(cancelled)
    await scene.kill(killed)
    done = await rejoined(scene, (cancelled, pairs[0]), (killed, pairs[1]))
    assert done == Reconciled([], [], [], [])
    assert [await scene.row(op) for op in (cancelled, killed)] == [Row.CANCELLED, Row.VOID]
    assert await scene.forward() == [cancelled]


async def test_an_operation_whose_entity_is_lost_is_cancelled_and_forwarded(scene: Scene) -> None:
    op, pair = scene.op(), await scene.pair(entity=False)
    assert await rejoined(scene, (op, pair)) == Reconciled([], [op], [], [])
    [item] = await scene.status(op)
    assert (item.row, item.why) == (Row.CANCELLED, Reason.LOST)
    assert await scene.forward() == [op]


async def test_what_is_live_here_only_is_dropped_and_seen_to_end_if_it_was_confirmed(scene: Scene) -> None:
    old, new = await scene.live(1000), await scene.live(3000)
    if scene.side is Side.RIGHT:
        await scene.close(2000)
        await scene.settle(0, 2000, [old])
    done = await rejoined(scene)
    assert done is not None
    assert done.dropped == [old, new]
    told = await scene.kit.told()
    if scene.side is Side.RIGHT:
        assert done.cancelled == [old]
        assert told == [("confirmed", old), ("cancelled", old)]
    else:
        assert (done.cancelled, told) == ([], [])
    assert (await scene.state()).rows == {}


async def test_a_pair_may_change_its_operation(scene: Scene) -> None:
    pair = await scene.pair(capacity=1)
    ours, theirs = await scene.live(pair=pair), scene.op()
    assert await rejoined(scene, (theirs, pair)) == Reconciled([theirs], [], [ours], [])
    if scene.has_seats:
        assert await scene.taken(own_of(scene.side, *pair)) == 1


async def test_copying_may_overbook(scene: Scene) -> None:
    own, pairs = await scene.pairs_of_one(3, capacity=1)
    await rejoined(scene, *((scene.op(), pair) for pair in pairs))
    assert len((await scene.state()).live) == 3
    if scene.has_seats:
        assert await scene.taken(own) == 3


async def test_the_marks_afterwards(scene: Scene) -> None:
    await scene.close(NOW)
    await rejoined(scene, closed=NOW - 1)
    mark = await scene.kit.store.mark()
    assert (mark.inc, mark.peer_inc, mark.closed, mark.settled, mark.restoring) == (NEW, THEIRS, NOW, 0, False)
    await rejoined(scene, closed=NOW + 1, inc=inc_id(8))
    mark = await scene.kit.store.mark()
    assert (mark.inc, mark.closed) == (inc_id(8), NOW + 1)


async def test_only_the_answer_to_the_latest_rejoin_is_applied(scene: Scene) -> None:
    op, pair = scene.op(), await scene.pair()
    await scene.kit.set_restoring(True)
    store = scene.kit.store
    assert await store.pend(NEW)
    assert await store.pend(inc_id(8))
    answer = wire.Rejoined(THEIRS, 0, [wire.LiveItem(op, *pair)])
    before = await scene.state()
    assert await store.reconcile(answer, NEW) is None
    assert await scene.state() == before
    assert await store.reconcile(answer, inc_id(8)) is not None
    assert await store.reconcile(answer, inc_id(8)) is None


async def test_who_is_not_restoring_announces_nothing(scene: Scene) -> None:
    assert not await scene.kit.store.pend(NEW)


async def test_the_report_names_what_was_lost(scene: Scene) -> None:
    kit = scene.kit
    if not isinstance(kit, PostgresKit):
        return
    here, there = await scene.pair(capacity=0), await scene.pair(entity=False)
    copied, lost, dropped = scene.op(), scene.op(), await scene.live()
    await kit.connection.execute(f"SELECT {kit.relationship.name}_restore('a test')")
    await kit.store.pend(NEW)
    items = [wire.LiveItem(copied, *here), wire.LiveItem(lost, *there)]
    await kit.store.reconcile(wire.Rejoined(THEIRS, 0, items), NEW)
    rows = await kit.connection.fetch("SELECT kind, subject FROM restore_item")
    found = {(row["kind"], row["subject"]) for row in rows}
    expected = {
        ("operation-copied", copied),
        ("operation-lost", lost),
        ("operation-dropped", dropped),
        ("entity-lost", own_of(scene.side, *there)),
    }
    assert found == expected | ({("overbooked", own_of(scene.side, *here))} if scene.has_seats else set())
    [row] = await kit.connection.fetch("SELECT reason, ended_at FROM restore")
    assert row["reason"] == "a test" and row["ended_at"] is not None
    await kit.connection.execute("UPDATE incarnation SET restoring = false")


async def test_what_the_stream_knows_as_confirmed_and_is_lost_is_seen_to_end(scene: Scene) -> None:
    kit = scene.kit
    if not isinstance(kit, PostgresKit) or scene.side is Side.LEFT:
        return
    left, right = kit.relationship.left.entity, kit.relationship.right.entity
    alive, gone, pair = scene.op(), scene.op(), await scene.pair()
    for op, ends in ((alive, pair), (gone, await scene.pair())):
        await kit.connection.execute(
            "INSERT INTO restore_seen (entity, subject, inc, version, deleted, data) VALUES ($1, $2, $3, 1, false, $4)",
            kit.relationship.name,
            op,
            NEW,
            json.dumps({"operation": str(op), left: str(ends[0]), right: str(ends[1])}),
        )
    await rejoined(scene, (alive, pair))
    assert await kit.told() == [("cancelled", gone)]
