"""Batches that want the same rows: in orders that can't deadlock where we choose the order, else tried again."""

from __future__ import annotations

import asyncio

import pytest

from tally.protocol.participant import Reason
from tests.contract.stores.scene import RECORDED, dead
from tests.integration.races.arena import Arena, on_any_side, on_any_side_and_with_seats, soon, with_seats

pytestmark = pytest.mark.asyncio(loop_scope="session")


@on_any_side_and_with_seats
async def test_two_batches_that_cross_over_two_pairs_decide_each_pair_once(arena: Arena) -> None:
    a, b = await arena.scene.pair(capacity=arena.capacity), await arena.scene.pair(capacity=arena.capacity)
    ops = arena.scene.ops(4)
    blocker = await arena.held()
    await blocker.scene.resolve(ops[3])
    one, two = await arena.racer(), await arena.racer()
    # The first stops in the middle; the second has the same pairs the other way round.
    first = await arena.waiting(one, one.scene.record((ops[0], a), (ops[3], b)))
    second = await arena.waiting(two, two.scene.record((ops[1], b), (ops[2], a)))
    await blocker.rollback()
    verdicts = await soon(first) + await soon(second)
    assert verdicts.count(RECORDED) == 2
    assert {verdict.why for verdict in verdicts} == {None, Reason.TAKEN}
    assert len((await arena.scene.state()).live) == 2


@on_any_side
async def test_a_deadlock_between_a_record_and_a_resolve_is_tried_again_and_decides_all(arena: Arena) -> None:
    """RECORD writes in the order of the pairs, RESOLVE, which doesn't know them, in that of the operations.

    Held is the second pair. RECORD has written the first pair's operation and waits; RESOLVE has written the other
    operation and waits for RECORD; when the pair is free, RECORD wants what RESOLVE has.
    """
    low, high = await arena.scene.pair(), await arena.scene.pair()
    early, late = arena.scene.ops(2)
    held, recorder, resolver = await arena.held(), await arena.racer(), await arena.racer()
    await held.scene.record((held.scene.op(), high))
    recording = await arena.waiting(recorder, recorder.scene.record((late, low), (early, high)))
    resolving = await arena.waiting(resolver, resolver.scene.resolve(early, late))
    await held.rollback()
    recorded, resolved = await soon(recording), await soon(resolving)
    state = await arena.scene.state()
    for op, one, other in zip((late, early), recorded, reversed(resolved), strict=True):
        # Whoever came first, both were told the same, and it is what is held.
        assert one == other == (RECORDED if op in state.live else dead(Reason.RESOLVED))


@with_seats
async def test_a_kill_batch_and_a_record_batch_on_the_same_seats_wait_in_line(arena: Arena) -> None:
    one, of_one = await arena.scene.pairs_of_one(3, capacity=2)
    two, of_two = await arena.scene.pairs_of_one(3, capacity=2)
    old = [await arena.scene.live(pair=pair) for pair in (of_one[0], of_two[0])]
    held, killer, recorder = await arena.held(), await arena.racer(), await arena.racer()
    await held.scene.record((held.scene.op(), of_one[1]), (held.scene.op(), of_two[1]))
    killing = await arena.waiting(killer, killer.scene.kill(*reversed(old)))
    recording = await arena.waiting(
        recorder, recorder.scene.record((recorder.scene.op(), of_two[2]), (recorder.scene.op(), of_one[2]))
    )
    await held.commit()
    assert await soon(killing) == [dead(Reason.KILLED)] * 2
    verdicts = await soon(recording)
    state = await arena.scene.state()
    live = [state.rows[op].right for op in state.live]
    assert state.seats == {entity: (2, live.count(entity)) for entity in (one, two)}
    assert all(verdict in (RECORDED, dead(Reason.FULL)) for verdict in verdicts)


@on_any_side
async def test_kill_batches_in_opposite_orders_end_everything_once(arena: Arena) -> None:
    ops = [await arena.scene.live() for _ in range(20)]
    racers = [await arena.racer() for _ in range(4)]
    async with asyncio.timeout(20):
        batches = await asyncio.gather(
            *(racer.scene.kill(*(ops if i % 2 else ops[::-1])) for i, racer in enumerate(racers))
        )
    assert all(batch == [dead(Reason.KILLED)] * len(ops) for batch in batches)
