"""A batch is answered item by item, in the order of its items, whatever they have to do with one another."""

from collections import Counter
from uuid import UUID

import pytest

from tally.protocol import messages as wire
from tally.protocol.participant import EARLY_MAX_MS, Answer, Reason, Row
from tests.contract.stores.scene import NOW, RECORDED, STALE, STRANGER, Scene, dead
from tests.support.stores import SEATED_PARTIES, Party, own_of, party_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_an_empty_batch_is_answered_with_no_verdicts(scene: Scene) -> None:
    assert await scene.record() == await scene.resolve() == await scene.kill() == await scene.cancel() == []
    assert await scene.ack() == []
    assert await scene.status() == []
    assert (await scene.kit.store.find([])).items == []
    assert (await scene.kit.store.list(wire.List("left", []))).items == []
    assert (await scene.state()).rows == {}


async def test_of_one_pair_twice_in_a_batch_the_earlier_operation_wins_wherever_it_stands(scene: Scene) -> None:
    pair = await scene.pair()
    early, late = scene.ops(2)
    assert await scene.record((late, pair), (early, pair)) == [dead(Reason.TAKEN, early), RECORDED]


async def test_one_operation_twice_in_a_batch_is_recorded_once_and_answered_twice(scene: Scene) -> None:
    pair = await scene.pair(capacity=1)
    op = scene.op()
    assert await scene.record((op, pair), (op, pair)) == [RECORDED, RECORDED]
    assert (await scene.state()).live == {op}


async def test_one_refused_operation_twice_in_a_batch_is_refused_twice_for_the_same_reason(scene: Scene) -> None:
    pair = await scene.pair(entity=False)
    op = scene.op()
    assert await scene.record((op, pair), (op, pair)) == [dead(Reason.NOT_FOUND)] * 2


async def test_one_operation_with_two_pairs_in_a_batch_takes_the_first(scene: Scene) -> None:
    op, first, second = scene.op(), await scene.pair(), await scene.pair()
    assert await scene.record((op, first), (op, second)) == [RECORDED, RECORDED]
    held = (await scene.state()).rows[op]
    assert (held.left, held.right) == first


async def test_a_mixed_batch_is_answered_in_the_order_of_its_items(scene: Scene) -> None:
    await scene.close(NOW - 100)
    known, unknown, taken = await scene.pair(), await scene.pair(entity=False), await scene.pair()
    holder = await scene.live(pair=taken)
    fenced = scene.op()
    await scene.resolve(fenced)
    items = [
        (scene.op(NOW + EARLY_MAX_MS + 1), await scene.pair()),
        (scene.op(), unknown),
        (holder, taken),
        (scene.op(), taken),
        (fenced, await scene.pair()),
        (scene.op(NOW - 100), await scene.pair()),
        (scene.op(), known),
    ]
    expected = [
        dead(Reason.TOO_EARLY),
        dead(Reason.NOT_FOUND),
        RECORDED,
        dead(Reason.TAKEN, holder),
        dead(Reason.RESOLVED),
        dead(Reason.TOO_LATE),
        RECORDED,
    ]
    assert await scene.record(*items) == expected
    assert await scene.record(*reversed(items)) == expected[::-1]


async def test_resolve_answers_a_mixed_batch_in_the_order_of_its_items(scene: Scene) -> None:
    await scene.close(NOW - 100)
    live, cancelled, absent, late = await scene.live(), await scene.live(), scene.op(), scene.op(NOW - 100)
    await scene.cancel(cancelled)
    expected = [
        dead(Reason.TOO_LATE),
        RECORDED,
        dead(Reason.RESOLVED),
        dead(Reason.CANCELLED),
        dead(Reason.RESOLVED),
    ]
    assert await scene.resolve(late, live, absent, cancelled, absent) == expected


async def test_kill_answers_a_mixed_batch_in_the_order_of_its_items(scene: Scene) -> None:
    await scene.close(NOW - 100)
    live, spared, cancelled = await scene.live(), await scene.live(), await scene.live()
    await scene.cancel(cancelled)
    late, absent = scene.op(NOW - 100), scene.op()
    reply = await scene.kit.store.kill(
        [
            wire.ProofItem(spared, STRANGER),
            wire.ProofItem(late, scene.peer_inc),
            wire.ProofItem(cancelled, scene.peer_inc),
            wire.ProofItem(absent, scene.peer_inc),
            wire.ProofItem(live, scene.peer_inc),
        ]
    )
    assert reply.items == [
        STALE,
        dead(Reason.TOO_LATE),
        dead(Reason.CANCELLED),
        dead(Reason.KILLED),
        dead(Reason.KILLED),
    ]
    assert await scene.row(spared) is Row.LIVE


async def test_one_operation_twice_in_a_kill_is_judged_by_each_proof_in_turn(scene: Scene) -> None:
    op = await scene.live()
    reply = await scene.kit.store.kill([wire.ProofItem(op, STRANGER), wire.ProofItem(op, scene.peer_inc)])
    assert reply.items == [STALE, dead(Reason.KILLED)]


async def test_cancel_answers_a_mixed_batch_in_the_order_of_its_items(scene: Scene) -> None:
    await scene.close(NOW - 100)
    live, late, absent = await scene.live(), scene.op(NOW - 100), scene.op()
    expected = [
        dead(Reason.CANCELLED),
        dead(Reason.TOO_LATE),
        dead(Reason.CANCELLED),
        dead(Reason.CANCELLED),
    ]
    assert await scene.cancel(absent, late, live, live) == expected
    assert await scene.row(absent) is Row.VOID
    assert await scene.row(live) is Row.CANCELLED


async def test_a_large_batch_is_decided_whole(scene: Scene) -> None:
    items = [(scene.op(), await scene.pair()) for _ in range(100)]
    lost = {i for i in range(100) if i % 7 == 0}
    for i in lost:
        await scene.kit.remove(own_of(scene.side, *items[i][1]))
    verdicts = await scene.record(*items[::-1])
    assert verdicts[::-1] == [dead(Reason.NOT_FOUND) if i in lost else RECORDED for i in range(100)]


class TestSeats:
    @pytest.fixture(params=SEATED_PARTIES, ids=party_id)
    def party(self, request: pytest.FixtureRequest) -> Party:
        found: Party = request.param
        return found

    async def test_the_last_seats_go_to_the_earliest_operations_of_a_batch(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(5, capacity=3)
        ops = scene.ops(5)
        verdicts = await scene.record(*list(zip(ops, pairs, strict=True))[::-1])
        assert verdicts == [dead(Reason.FULL)] * 2 + [RECORDED] * 3
        assert await scene.taken(entity) == 3

    async def test_what_is_refused_for_another_reason_takes_no_seat(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(4, capacity=2)
        await scene.close(NOW - 100)
        fenced = scene.op()
        await scene.resolve(fenced)
        items = [
            (scene.op(NOW - 100), pairs[0]),
            (fenced, pairs[1]),
            (scene.op(NOW + EARLY_MAX_MS + 1), pairs[2]),
            (scene.op(), pairs[3]),
            (scene.op(), pairs[0]),
            (scene.op(), pairs[1]),
        ]
        answers = [verdict.why for verdict in await scene.record(*items)]
        assert answers == [Reason.TOO_LATE, Reason.RESOLVED, Reason.TOO_EARLY, None, None, Reason.FULL]
        assert await scene.taken(entity) == 2

    async def test_a_batch_counts_the_seats_of_each_entity_by_itself(self, scene: Scene) -> None:
        one, of_one = await scene.pairs_of_one(3, capacity=1)
        two, of_two = await scene.pairs_of_one(3, capacity=2)
        _, of_any = await scene.pairs_of_one(3)
        items = [(scene.op(), pair) for trio in zip(of_one, of_two, of_any, strict=True) for pair in trio]
        answers = await scene.record(*items)
        assert Counter(verdict.answer for verdict in answers) == {Answer.RECORDED: 6, Answer.DEAD: 3}
        assert (await scene.state()).seats == {one: (1, 1), two: (2, 2)}

    async def test_the_same_pair_twice_in_a_batch_takes_one_seat(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(2, capacity=2)
        a, b, c = scene.ops(3)
        assert await scene.record((a, pairs[0]), (b, pairs[0]), (c, pairs[1])) == [
            RECORDED,
            dead(Reason.TAKEN, a),
            RECORDED,
        ]
        assert await scene.taken(entity) == 2

    async def test_an_operation_that_is_dead_already_leaves_its_pairs_turn_to_the_next(self, scene: Scene) -> None:
        """The order in which items of one pair and of others get the last seat is `rounds`', on both stores."""
        _, pairs = await scene.pairs_of_one(2, capacity=1)
        void, again, other = scene.ops(3)
        await scene.resolve(void)
        verdicts = await scene.record((void, pairs[0]), (again, pairs[0]), (other, pairs[1]))
        assert verdicts == [dead(Reason.RESOLVED), dead(Reason.FULL), RECORDED]

    async def test_a_killed_batch_frees_its_seats(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(3, capacity=3)
        ops: list[UUID] = [await scene.live(pair=pair) for pair in pairs]
        await scene.kill(*ops[:2], scene.op())
        assert await scene.taken(entity) == 1
        assert await scene.record((scene.op(), pairs[0]), (scene.op(), pairs[1])) == [RECORDED, RECORDED]
