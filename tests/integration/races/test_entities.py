"""An entity is deleted, or its capacity changed, while messages about its halves are in flight."""

from __future__ import annotations

import asyncio

import pytest

from tally.protocol.participant import Message, Reason, Row, Status
from tests.contract.stores.scene import NOW, RECORDED, dead
from tests.integration.races.arena import Arena, on_any_side, on_any_side_and_with_seats, soon, with_seats

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestDeletion:
    @on_any_side_and_with_seats
    async def test_waits_for_a_record_in_flight_and_takes_its_half_along(self, arena: Arena) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        op = arena.scene.op()
        held, racer = await arena.held(), await arena.racer()
        assert await held.scene.record((op, pair)) == [RECORDED]
        deleting = await arena.waiting(racer, racer.kit.remove(entity))
        await held.commit()
        await soon(deleting)
        row = (await arena.scene.state()).rows[op]
        assert (row.status, row.why) == (Status.CANCELLED, Reason.DELETED)

    @on_any_side_and_with_seats
    async def test_in_flight_makes_a_record_wait_and_find_nothing(self, arena: Arena) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        held, racer = await arena.held(), await arena.racer()
        await held.kit.remove(entity)
        recording = await arena.waiting(racer, racer.scene.record((racer.scene.op(), pair)))
        await held.commit()
        assert await soon(recording) == [dead(Reason.NOT_FOUND)]
        assert (await arena.scene.state()).live == set()

    @on_any_side_and_with_seats
    async def test_that_is_rolled_back_leaves_the_entity_to_the_record_that_waited(self, arena: Arena) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        op = arena.scene.op()
        held, racer = await arena.held(), await arena.racer()
        await held.kit.remove(entity)
        recording = await arena.waiting(racer, racer.scene.record((op, pair)))
        await held.rollback()
        assert await soon(recording) == [RECORDED]
        assert (await arena.scene.state()).live == {op}

    @on_any_side_and_with_seats
    async def test_leaves_the_rest_of_a_batch_that_waited_alone(self, arena: Arena) -> None:
        entity, (gone,) = await arena.scene.pairs_of_one(1, arena.capacity)
        kept = await arena.scene.pair(capacity=arena.capacity)
        held, racer = await arena.held(), await arena.racer()
        await held.kit.remove(entity)
        recording = await arena.waiting(racer, racer.scene.record((racer.scene.op(), gone), (racer.scene.op(), kept)))
        await held.commit()
        assert await soon(recording) == [dead(Reason.NOT_FOUND), RECORDED]

    @on_any_side_and_with_seats
    @pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
    async def test_waits_for_what_ends_a_half_and_leaves_that_as_it_ended(self, arena: Arena, message: Message) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        op = await arena.scene.live(pair=pair)
        held, racer = await arena.held(), await arena.racer()
        (verdict,) = await held.scene.send(message, op, pair)
        deleting = await arena.waiting(racer, racer.kit.remove(entity))
        await held.commit()
        await soon(deleting)
        assert (await arena.scene.state()).rows[op].why == verdict.why
        assert (await arena.scene.state()).seats == {}

    @on_any_side_and_with_seats
    @pytest.mark.parametrize("message", [Message.KILL, Message.CANCEL])
    async def test_in_flight_makes_what_ends_a_half_wait_and_find_it_ended(
        self, arena: Arena, message: Message
    ) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        op = await arena.scene.live(pair=pair)
        held, racer = await arena.held(), await arena.racer()
        await held.kit.remove(entity)
        ending = await arena.waiting(racer, racer.scene.send(message, op, pair))
        await held.commit()
        assert await soon(ending) == [dead(Reason.DELETED)]

    @on_any_side
    async def test_that_close_waited_for_leaves_nothing_to_list(self, arena: Arena) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1)
        op = await arena.scene.live(pair=pair)
        held, racer = await arena.held(), await arena.racer()
        await held.kit.remove(entity)
        closing = await arena.waiting(racer, racer.scene.close(NOW))
        await held.commit()
        assert (await soon(closing)).live == []
        assert await arena.scene.row(op) is Row.CANCELLED

    @on_any_side_and_with_seats
    async def test_and_a_record_that_waits_for_a_third_do_not_wait_for_one_another(self, arena: Arena) -> None:
        """RECORD has the entity's seat, waits for a fence, and will want the entity; the deletion has it.

        With a shared lock for the deletion, PostgreSQL has to end one of the two.
        """
        entity, (pair,) = await arena.scene.pairs_of_one(1, arena.capacity)
        op = arena.scene.op()
        held, recorder, deleter = await arena.held(), await arena.racer(), await arena.racer()
        await held.scene.resolve(op)
        recording = await arena.waiting(recorder, recorder.scene.record((op, pair)))
        deleting = await arena.waiting(deleter, deleter.kit.remove(entity))
        await held.rollback()
        assert await soon(recording) == [RECORDED]
        await soon(deleting)
        assert await arena.scene.row(op) is Row.CANCELLED

    @on_any_side_and_with_seats
    async def test_of_many_at_once_and_records_of_them_all_ends_without_an_error(self, arena: Arena) -> None:
        entities = [await arena.scene.pairs_of_one(3, arena.capacity) for _ in range(6)]
        recorders = [await arena.racer() for _ in range(3)]
        deleters = [await arena.racer() for _ in range(2)]
        recording = [
            racer.scene.record(*[(racer.scene.op(), pairs[i]) for _, pairs in entities])
            for i, racer in enumerate(recorders)
        ]
        deleting = [racer.kit.remove(entity) for i, racer in enumerate(deleters) for entity, _ in entities[i::2]]
        async with asyncio.timeout(20):
            await asyncio.gather(*recording, *deleting)
        state = await arena.scene.state()
        assert state.live == set()
        assert state.seats == {}


@with_seats
class TestCapacity:
    async def test_given_while_a_record_is_in_flight_counts_it(self, arena: Arena) -> None:
        entity, (pair,) = await arena.scene.pairs_of_one(1)
        held, racer = await arena.held(), await arena.racer()
        await held.scene.record((held.scene.op(), pair))
        giving = await arena.waiting(racer, racer.kit.set_capacity(entity, 4))
        await held.commit()
        assert await soon(giving)
        assert (await arena.scene.state()).seats == {entity: (4, 1)}

    async def test_lowered_below_a_record_in_flight_is_refused(self, arena: Arena) -> None:
        entity, pairs = await arena.scene.pairs_of_one(2, 5)
        await arena.scene.live(pair=pairs[0])
        held, racer = await arena.held(), await arena.racer()
        await held.scene.record((held.scene.op(), pairs[1]))
        lowering = await arena.waiting(racer, racer.kit.set_capacity(entity, 1))
        await held.commit()
        assert not await soon(lowering)
        assert (await arena.scene.state()).seats == {entity: (5, 2)}

    async def test_lowered_in_flight_is_what_a_record_finds(self, arena: Arena) -> None:
        entity, pairs = await arena.scene.pairs_of_one(3, 5)
        await arena.scene.live(pair=pairs[0])
        held, racer = await arena.held(), await arena.racer()
        assert await held.kit.set_capacity(entity, 2)
        recording = await arena.waiting(
            racer, racer.scene.record((racer.scene.op(), pairs[1]), (racer.scene.op(), pairs[2]))
        )
        await held.commit()
        assert await soon(recording) == [RECORDED, dead(Reason.FULL)]

    @pytest.mark.parametrize(("before", "after"), [(None, 1), (1, None), (1, 2), (2, 1)])
    async def test_changed_in_flight_keeps_the_count_exact(
        self, arena: Arena, before: int | None, after: int | None
    ) -> None:
        entity, pairs = await arena.scene.pairs_of_one(3, before)
        op = await arena.scene.live(pair=pairs[0])
        held, killer, recorder = await arena.held(), await arena.racer(), await arena.racer()
        assert await held.kit.set_capacity(entity, after)
        killing = await arena.waiting(killer, killer.scene.kill(op))
        recording = await arena.waiting(recorder, recorder.scene.record((recorder.scene.op(), pairs[1])))
        await held.commit()
        await asyncio.gather(soon(killing), soon(recording))
        state = await arena.scene.state()
        assert state.seats == ({} if after is None else {entity: (after, len(state.live))})
        assert after is None or len(state.live) <= after

    async def test_of_an_entity_that_appears_in_flight_is_respected(self, arena: Arena) -> None:
        """A RECORD that sees the entity sees and locks its seats as well, or it sees neither."""
        pair = await arena.scene.pair(entity=False)
        held, racers = await arena.held(), [await arena.racer() for _ in range(2)]
        await held.kit.add(pair[1], 0)
        assert await racers[0].scene.record((racers[0].scene.op(), pair)) == [dead(Reason.NOT_FOUND)]
        await held.commit()
        assert await racers[1].scene.record((racers[1].scene.op(), pair)) == [dead(Reason.FULL)]
