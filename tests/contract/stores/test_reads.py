"""Reads: what is held for an operation, which operation a pair has, and lists by either end."""

import json
from uuid import UUID

import pytest

from tally.protocol import messages as wire
from tally.protocol.participant import Reason, Row
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, Scene
from tests.support.stores import card, left_id, own_of, right_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


class TestStatus:
    async def test_says_of_each_operation_what_is_held_in_the_order_asked(self, scene: Scene) -> None:
        await scene.close(NOW - 100)
        pair, gone, unknown = await scene.pair(), await scene.pair(), await scene.pair(entity=False)
        live, cancelled = await scene.live(pair=pair), await scene.live(pair=gone)
        await scene.cancel(cancelled)
        fenced, refused, open_, closed = scene.op(), scene.op(), scene.op(), scene.op(NOW - 100)
        await scene.resolve(fenced)
        await scene.record((refused, unknown))
        expected = {
            live: wire.StatusItem(Row.LIVE, None, *pair),
            cancelled: wire.StatusItem(Row.CANCELLED, Reason.CANCELLED, *gone),
            fenced: wire.StatusItem(Row.VOID, Reason.RESOLVED),
            refused: wire.StatusItem(Row.VOID, Reason.NOT_FOUND, *unknown),
            open_: wire.StatusItem(Row.OPEN),
            closed: wire.StatusItem(Row.CLOSED),
        }
        asked = [closed, refused, live, open_, fenced, cancelled, live]
        assert await scene.status(*asked) == [expected[op] for op in asked]

    async def test_asking_fences_nothing(self, scene: Scene) -> None:
        op = scene.op()
        await scene.status(op)
        assert (await scene.state()).rows == {}


class TestFind:
    async def test_names_the_live_operation_of_each_pair_in_the_order_asked(self, scene: Scene) -> None:
        related, ended, known, unknown = [await scene.pair(entity=known) for known in (True, True, True, False)]
        op = await scene.live(pair=related)
        await scene.cancel(await scene.live(pair=ended))
        asked = [unknown, related, known, ended, related]
        reply = await scene.kit.store.find([wire.PairItem(*pair) for pair in asked])
        assert reply.items == [
            wire.Found(None, False),
            wire.Found(op, True),
            wire.Found(None, True),
            wire.Found(None, True),
            wire.Found(op, True),
        ]


async def listed(
    scene: Scene, by: Side, *items: tuple[UUID, UUID | None, int]
) -> list[tuple[list[UUID], list[UUID], list[object]]]:
    reply = await scene.kit.store.list(wire.List(by.value, [wire.ListItem(*item) for item in items]))
    return [
        (
            [UUID(op) for op in one.ops],
            [UUID(other) for other in one.others],
            [json.loads(bytes(card)) for card in one.entities],
        )
        for one in reply.items
    ]


class TestListsOfOwnEntities:
    async def test_has_the_live_halves_in_order_and_the_entity_itself(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(4)
        ops = [await scene.live(pair=pair) for pair in pairs]
        await scene.cancel(ops[1])
        others = [own_of(scene.side.peer, *pair) for pair in pairs]
        (found,) = await listed(scene, scene.side, (entity, None, 10))
        assert found == (
            [ops[0], ops[2], ops[3]],
            [others[0], others[2], others[3]],
            [card(scene.relationship, scene.side, entity)],
        )

    async def test_of_an_entity_without_halves_has_the_entity_only(self, scene: Scene) -> None:
        entity, _ = await scene.pairs_of_one(0)
        assert await listed(scene, scene.side, (entity, None, 10)) == [
            ([], [], [card(scene.relationship, scene.side, entity)])
        ]

    async def test_of_an_unknown_entity_has_no_entity(self, scene: Scene) -> None:
        unknown = own_of(scene.side, left_id(99_999), right_id(99_999))
        assert await listed(scene, scene.side, (unknown, None, 10)) == [([], [], [])]

    async def test_pages_follow_one_another(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(5)
        ops = [await scene.live(pair=pair) for pair in pairs]
        pages = await listed(
            scene, scene.side, (entity, None, 2), (entity, ops[1], 2), (entity, ops[3], 2), (entity, ops[4], 2)
        )
        assert [page[0] for page in pages] == [ops[:2], ops[2:4], ops[4:], []]
        assert all(page[2] == [card(scene.relationship, scene.side, entity)] for page in pages)


class TestListsOfThePeersEntities:
    async def test_has_one_entity_of_this_side_per_half(self, scene: Scene) -> None:
        pairs = [await scene.pair() for _ in range(3)]
        peer = own_of(scene.side.peer, *pairs[0])
        owns = [own_of(scene.side, *pair) for pair in pairs]
        joined = [(own, peer) if scene.side is Side.LEFT else (peer, own) for own in owns]
        ops = [await scene.live(pair=pair) for pair in reversed(joined)]
        (found,) = await listed(scene, scene.side.peer, (peer, None, 10))
        assert found == (ops, owns[::-1], [card(scene.relationship, scene.side, own) for own in owns[::-1]])

    async def test_pages_follow_one_another(self, scene: Scene) -> None:
        pairs = [await scene.pair() for _ in range(5)]
        peer = own_of(scene.side.peer, *pairs[0])
        owns = [own_of(scene.side, *pair) for pair in pairs]
        ops = [await scene.live(pair=(own, peer) if scene.side is Side.LEFT else (peer, own)) for own in owns]
        pages = await listed(scene, scene.side.peer, (peer, None, 3), (peer, ops[2], 3), (peer, ops[4], 3))
        assert [page[0] for page in pages] == [ops[:3], ops[3:], []]
        assert [page[1] for page in pages] == [owns[:3], owns[3:], []]

    async def test_of_an_unknown_entity_is_empty(self, scene: Scene) -> None:
        unknown = own_of(scene.side.peer, left_id(99_999), right_id(99_999))
        assert await listed(scene, scene.side.peer, (unknown, None, 10)) == [([], [], [])]


class TestCopiesOfThePeersEntities:
    """What is listed with ``shadow``, when the peer does not answer."""

    async def shadows(self, scene: Scene, by: Side, *ids: UUID, shadow: bool = True) -> list[list[str | None]]:
        """Of each list the ids of the copies; None where nothing is kept."""
        reply = await scene.kit.store.list(wire.List(by.value, [wire.ListItem(id, None, 10) for id in ids], shadow))
        cards = [[json.loads(bytes(card)) for card in one.shadows] for one in reply.items]
        return [[card and card["id"] for card in one] for one in cards]

    async def test_beside_each_half_of_an_own_entity(self, scene: Scene) -> None:
        entity, pairs = await scene.pairs_of_one(3)
        for pair in pairs:
            await scene.live(pair=pair)
        others = [own_of(scene.side.peer, *pair) for pair in pairs]
        expected: list[str | None] = []
        if copies(scene):
            await scene.kit.keep(others[0])
            await scene.kit.keep(others[2])
            expected = [str(others[0]), None, str(others[2])]
        assert await self.shadows(scene, scene.side, entity) == [expected]

    async def test_of_the_entity_itself_if_it_is_the_peer_s(self, scene: Scene) -> None:
        kept, unknown = (own_of(scene.side.peer, left_id(number), right_id(number)) for number in (81, 82))
        expected: list[list[str | None]] = [[], []]
        if copies(scene):
            await scene.kit.keep(kept)
            expected = [[str(kept)], [None]]
        assert await self.shadows(scene, scene.side.peer, kept, unknown) == expected

    async def test_only_if_they_are_asked_for(self, scene: Scene) -> None:
        entity, (pair,) = await scene.pairs_of_one(1)
        await scene.live(pair=pair)
        assert await self.shadows(scene, scene.side, entity, shadow=False) == [[]]


def copies(scene: Scene) -> bool:
    return scene.relationship.end(scene.side.peer).copy is not None


async def test_several_lists_are_answered_in_the_order_asked(scene: Scene) -> None:
    first, (a,) = await scene.pairs_of_one(1)
    second, (b,) = await scene.pairs_of_one(1)
    op_b, op_a = await scene.live(pair=b), await scene.live(pair=a)
    pages = await listed(scene, scene.side, (second, None, 5), (first, None, 5), (second, op_b, 5))
    assert [page[0] for page in pages] == [[op_b], [op_a], []]
