"""Closing, listing and settling epochs, forwarding cancels, and forgetting what is void."""

from uuid import UUID

import pytest

from tally.halves.store import ENDED_KEEP_MS, FIRST_INC, VOID_KEEP_MS
from tally.protocol import messages as wire
from tally.protocol.participant import Reason, Row, Status
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, Scene, dead
from tests.support.stores import RIGHT_PARTIES, Party, inc_id, party_id

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def live_at(scene: Scene, *times: int) -> list[UUID]:
    return [await scene.live(time_ms) for time_ms in times]


class TestClose:
    async def test_lists_what_is_live_after_since_and_up_to_the_time(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 101, 102, 103, 104)
        reply = await scene.close(103, since=101)
        assert (reply.live, reply.time, reply.closed) == (ops[2:4], 103, 103)

    async def test_lists_in_the_order_of_the_operations(self, scene: Scene) -> None:
        ops = await live_at(scene, 105, 103, 104, 103)
        assert (await scene.close(200, since=0)).live == sorted(ops)

    async def test_without_since_lists_what_is_not_settled(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 101)
        if scene.side is Side.RIGHT:
            await scene.close(100)
            await scene.settle(0, 100)
            ops = ops[1:]
        reply = await scene.close(101)
        assert reply.live == ops
        assert reply.settled == (100 if scene.side is Side.RIGHT else 0)

    async def test_lists_neither_void_nor_cancelled_halves(self, scene: Scene) -> None:
        a, b, c = await live_at(scene, 100, 100, 100)
        await scene.kill(a)
        await scene.cancel(b)
        await scene.resolve(scene.op(100))
        assert (await scene.close(100)).live == [c]

    async def test_never_opens_an_epoch_again(self, scene: Scene) -> None:
        (op,) = await live_at(scene, 100)
        await scene.close(200)
        reply = await scene.close(150, since=0)
        assert (reply.closed, reply.time, reply.live) == (200, 150, [op])
        assert await scene.record((scene.op(180), await scene.pair())) == [dead(Reason.TOO_LATE)]

    async def test_of_an_empty_window_lists_nothing(self, scene: Scene) -> None:
        await live_at(scene, 100)
        assert (await scene.close(100, since=100)).live == []
        assert (await scene.close(99, since=100)).live == []

    async def test_cuts_a_large_window_at_a_whole_millisecond(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 101, 101, 102, 102, 103)
        cut = await scene.close(200, since=0, limit=4)
        assert (cut.live, cut.time, cut.closed) == (ops[:3], 101, 200)
        rest = await scene.close(200, since=cut.time, limit=4)
        assert (rest.live, rest.time) == (ops[3:], 200)

    async def test_a_cut_lists_all_that_is_live_up_to_its_time(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 105)
        cut = await scene.close(200, since=0, limit=1)
        assert (cut.live, cut.time) == (ops[:1], 104)

    async def test_a_window_of_exactly_the_limit_is_not_cut(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 101, 102)
        whole = await scene.close(200, since=0, limit=3)
        assert (whole.live, whole.time) == (ops, 200)

    async def test_one_millisecond_of_more_than_the_limit_is_listed_whole(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 100, 100, 100, 101)
        cut = await scene.close(200, since=0, limit=2)
        assert (cut.live, cut.time) == (ops[:4], 100)

    async def test_pages_of_a_window_are_its_whole(self, scene: Scene) -> None:
        ops = await live_at(scene, *[100 + i // 3 for i in range(20)])
        seen: list[UUID] = []
        since, rounds = 0, 0
        while since < 200:
            page = await scene.close(200, since=since, limit=4)
            seen += page.live
            since, rounds = page.time, rounds + 1
        assert seen == ops
        assert rounds == 7


class TestForgetting:
    async def test_void_rows_go_when_their_epoch_has_been_closed_for_long(self, scene: Scene) -> None:
        old, kept = scene.op(NOW), scene.op(NOW + 1)
        await scene.resolve(old, kept)
        await scene.close(NOW + VOID_KEEP_MS)
        assert set((await scene.state()).rows) == {kept}
        assert await scene.row(old) is Row.CLOSED

    async def test_a_forgotten_operation_stays_dead(self, scene: Scene) -> None:
        op, pair = scene.op(NOW), await scene.pair()
        await scene.resolve(op)
        await scene.close(NOW + VOID_KEEP_MS)
        assert await scene.record((op, pair)) == [dead(Reason.TOO_LATE)]
        assert await scene.resolve(op) == await scene.kill(op) == await scene.cancel(op) == [dead(Reason.TOO_LATE)]
        assert (await scene.state()).rows == {}

    async def test_live_and_cancelled_halves_are_never_forgotten(self, scene: Scene) -> None:
        live, cancelled = await scene.live(NOW), await scene.live(NOW)
        await scene.cancel(cancelled)
        await scene.close(NOW + 10 * VOID_KEEP_MS)
        assert set((await scene.state()).rows) == {live, cancelled}

    async def test_a_cancelled_half_is_forgotten_after_its_ack(self, scene: Scene) -> None:
        op = await scene.live(NOW)
        await scene.cancel(op)
        await scene.ack(op)
        await scene.close(NOW + VOID_KEEP_MS)
        assert (await scene.state()).rows == {}

    async def test_what_lived_and_was_ended_is_remembered_after_its_row_has_gone(self, scene: Scene) -> None:
        entity, (pair,) = await scene.pairs_of_one(1)
        cancelled, deleted, fenced = await scene.live(NOW), await scene.live(NOW, pair), scene.op(NOW)
        await scene.cancel(cancelled)
        await scene.kit.remove(entity)
        await scene.ack(cancelled, deleted)
        await scene.resolve(fenced)
        await scene.close(NOW + VOID_KEEP_MS)
        assert (await scene.state()).rows == {}
        told = {op: (await scene.status(op))[0] for op in (cancelled, deleted, fenced)}
        assert told[cancelled] == wire.StatusItem(Row.VOID, Reason.CANCELLED)
        assert told[deleted] == wire.StatusItem(Row.VOID, Reason.DELETED)
        assert told[fenced] == wire.StatusItem(Row.CLOSED)
        await scene.close(NOW + ENDED_KEEP_MS - 1)
        assert (await scene.status(cancelled))[0] == told[cancelled]
        await scene.close(NOW + ENDED_KEEP_MS)
        assert [item.row for item in await scene.status(cancelled, deleted)] == [Row.CLOSED, Row.CLOSED]


class TestForward:
    async def test_names_cancelled_halves_oldest_first(self, scene: Scene) -> None:
        ops = await live_at(scene, 103, 101, 102, 100)
        await scene.cancel(*ops)
        assert await scene.forward() == sorted(ops)
        assert await scene.forward(2) == sorted(ops)[:2]
        assert await scene.forward(0) == []

    async def test_names_neither_void_nor_live_halves_nor_fences_of_a_cancel(self, scene: Scene) -> None:
        _live, killed = await live_at(scene, NOW, NOW)
        await scene.kill(killed)
        await scene.cancel(scene.op())
        assert await scene.forward() == []

    async def test_stops_naming_what_the_peer_acknowledged(self, scene: Scene) -> None:
        a, b = await live_at(scene, NOW, NOW)
        await scene.cancel(a, b)
        await scene.ack(a)
        assert await scene.forward() == [b]

    async def test_an_ack_keeps_the_reason(self, scene: Scene) -> None:
        op = await scene.live()
        await scene.cancel(op)
        await scene.ack(op, op)
        held = (await scene.state()).rows[op]
        assert (held.status, held.why) == (Status.VOID, Reason.CANCELLED)


class TestSettle:
    @pytest.fixture(params=RIGHT_PARTIES, ids=party_id)
    def party(self, request: pytest.FixtureRequest) -> Party:
        found: Party = request.param
        return found

    async def test_confirms_what_matched_in_the_order_of_the_operations(self, scene: Scene) -> None:
        ops = await live_at(scene, 100, 101, 102, 103)
        await scene.close(150)
        reply = await scene.settle(0, 150, [ops[2], ops[0], ops[1]])
        assert (reply.applied, reply.confirmed, reply.settled) == (True, 3, 150)
        assert await scene.kit.told() == [("confirmed", op) for op in ops[:3]]

    async def test_confirms_only_what_is_still_live(self, scene: Scene) -> None:
        a, b, c = await live_at(scene, 100, 101, 102)
        await scene.close(150)
        await scene.kill(a)
        await scene.cancel(b)
        reply = await scene.settle(0, 150, [a, b, c, scene.op(103)])
        assert (reply.applied, reply.confirmed) == (True, 1)
        assert await scene.kit.told() == [("confirmed", c)]

    async def test_applies_once_per_window(self, scene: Scene) -> None:
        (op,) = await live_at(scene, 100)
        await scene.close(150)
        await scene.settle(0, 150, [op])
        again = await scene.settle(0, 150, [op])
        assert (again.applied, again.confirmed, again.settled) == (False, 0, 150)
        assert await scene.kit.told() == [("confirmed", op)]

    @pytest.mark.parametrize(("since", "time"), [(0, 200), (149, 200), (151, 200), (150, 150), (150, 149)])
    async def test_is_refused_from_another_mark_and_never_goes_back(self, scene: Scene, since: int, time: int) -> None:
        (op,) = await live_at(scene, 100)
        await scene.close(200)
        await scene.settle(0, 150)
        assert not (await scene.settle(since, time, [op])).applied
        assert (await scene.kit.store.mark()).settled == 150
        assert await scene.kit.told() == []

    async def test_is_refused_to_another_incarnation(self, scene: Scene) -> None:
        (op,) = await live_at(scene, 100)
        await scene.close(150)
        assert not (await scene.settle(0, 150, [op], inc=inc_id(5))).applied
        await scene.kit.set_inc(inc_id(5))
        assert not (await scene.settle(0, 150, [op], inc=FIRST_INC[Side.RIGHT])).applied
        assert (await scene.settle(0, 150, [op], inc=inc_id(5))).applied

    async def test_moves_the_mark_where_nothing_matched(self, scene: Scene) -> None:
        reply = await scene.settle(0, 150)
        assert (reply.applied, reply.confirmed, reply.settled) == (True, 0, 150)

    async def test_confirmed_comes_before_cancelled(self, scene: Scene) -> None:
        op = await scene.live(100)
        await scene.close(150)
        await scene.settle(0, 150, [op])
        await scene.cancel(op)
        assert await scene.kit.told() == [("confirmed", op), ("cancelled", op)]


class TestCancelledEvents:
    async def _settled_up_to(self, scene: Scene, time_ms: int) -> None:
        await scene.close(time_ms)
        if scene.side is Side.RIGHT:
            await scene.settle(0, time_ms)

    @pytest.mark.parametrize("ending", ["kill", "cancel", "remove"])
    async def test_what_was_confirmed_is_seen_to_end_on_the_right_side_only(self, scene: Scene, ending: str) -> None:
        entity, pairs = await scene.pairs_of_one(3)
        settled, at_the_mark, open_ = [
            await scene.live(time_ms, pair) for time_ms, pair in zip((149, 150, 151), pairs, strict=True)
        ]
        await self._settled_up_to(scene, 150)
        if ending == "remove":
            await scene.kit.remove(entity)
        else:
            await getattr(scene, ending)(settled, at_the_mark, open_)
        told = sorted(await scene.kit.told(), key=lambda event: event[1])
        expected = [("cancelled", settled), ("cancelled", at_the_mark)]
        assert told == (expected if scene.side is Side.RIGHT else [])
        assert not (await scene.state()).live

    async def test_ending_twice_is_told_once(self, scene: Scene) -> None:
        pair = await scene.pair()
        op = await scene.live(100, pair)
        await self._settled_up_to(scene, 150)
        await scene.cancel(op, op)
        await scene.kill(op)
        await scene.ack(op)
        assert await scene.kit.told() == ([("cancelled", op)] if scene.side is Side.RIGHT else [])

    async def test_fencing_what_was_absent_tells_nobody(self, scene: Scene) -> None:
        await self._settled_up_to(scene, 150)
        await scene.cancel(scene.op(120), scene.op(200))
        await scene.kill(scene.op(120), scene.op(200))
        assert await scene.kit.told() == []
