"""An entity of which very many halves live is deleted in parts, by whichever agent is there; nobody waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import pytest_asyncio
from starlette.applications import Starlette

from services.attendance import ATTENDANCE
from services.author.author import AUTHOR
from services.conference.conference import CONFERENCE as CONFERENCES
from services.conference.event import EVENT
from tally.chassis.database import Database
from tally.chassis.http import starlette_routes
from tally.chassis.resource import Resource
from tally.halves.deletions import AT_ONCE_MAX, Deletions
from tally.protocol.participant import Reason, Status
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, RECORDED, Scene, dead
from tests.support.postgres import Databases
from tests.support.stores import CONFERENCE, PostgresKit, new_database, op_at

PART = 3
AT_ONCE = 5
PARTS = 4
MANY = PART * PARTS

#: As PostgreSQL's own limit of a statement; ending so many halves in one takes several times as long.
SHORT_S = 0.3
#: How much that one does at once, and in a part.
SHORT = (AT_ONCE_MAX // 10, AT_ONCE_MAX // 10)
VERY_MANY = 40_000

RESOURCES: dict[Side, list[Resource]] = {Side.LEFT: [AUTHOR], Side.RIGHT: [CONFERENCES, EVENT]}

on_any_side = pytest.mark.parametrize("side", Side, indirect=True, ids=lambda side: side.value)
on_the_right = pytest.mark.parametrize("side", [Side.RIGHT], indirect=True, ids=["right"])


class Owner:
    """A service's public routes over its database, agents that work when they are told to, and a scene."""

    def __init__(self, side: Side, address: str, *, statement_timeout_s: float = 20.0) -> None:
        self.side, self.address = side, address
        self.own = ATTENDANCE.end(side).entity
        self.database = Database(address, "owner", pool_max=4, statement_timeout_s=statement_timeout_s)
        self.scene = Scene(PostgresKit(ATTENDANCE, side, self.database))
        self.http: httpx.AsyncClient
        self._stack = AsyncExitStack()

    def agent(self, at_once_max: int = AT_ONCE, part_max: int = PART) -> Deletions:
        resources = RESOURCES[self.side]
        return Deletions(ATTENDANCE, self.side, resources, self.database, at_once_max=at_once_max, part_max=part_max)

    async def start(self, deletions: Deletions) -> None:
        await self.database.start()
        self._stack.push_async_callback(self.database.close)
        routes = [route for one in RESOURCES[self.side] for route in one.routes(self.database, deletions)]
        transport = httpx.ASGITransport(Starlette(routes=starlette_routes(routes)))
        self.http = await self._stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://owner")
        )

    async def stop(self) -> None:
        await self._stack.aclose()

    async def entity_of(self, number: int, time_ms: int = NOW, capacity: int | None = None) -> tuple[UUID, list[UUID]]:
        """An entity, and that many live operations of it."""
        entity, pairs = await self.scene.pairs_of_one(number, capacity)
        return entity, [await self.scene.live(time_ms, pair) for pair in pairs]

    async def delete(self, entity: UUID, path: str = "", query: str = "", **headers: str) -> int:
        answer = await self.http.delete(f"/{path or self.own}/{entity}{query}", headers=headers)
        return answer.status_code

    async def is_there(self, entity: UUID) -> bool:
        return (await self.http.get(f"/{self.own}/{entity}")).status_code == 200

    async def conference_of(self, ops: Sequence[UUID]) -> UUID:
        """Another conference, to which the event of these operations belongs now."""
        other = uuid4()
        await self.database.execute("INSERT INTO conference (id, acronym) VALUES ($1, 'ESA')", other)
        of_ops = "SELECT event FROM attendance_half WHERE op = ANY ($2)"
        await self.database.execute(f"UPDATE event SET conference_id = $1 WHERE id IN ({of_ops})", other, ops)
        return other

    async def live(self) -> set[UUID]:
        return (await self.scene.state()).live

    async def ended(self, ops: Sequence[UUID]) -> None:
        rows = (await self.scene.state()).rows
        assert {(rows[op].status, rows[op].why) for op in ops} == {(Status.CANCELLED, Reason.DELETED)}

    async def decided(self) -> int:
        row = await self.database.fetchrow("SELECT count(*) FROM attendance_deletion")
        assert row is not None
        return int(row["count"])


@pytest.fixture
def side(request: pytest.FixtureRequest) -> Side:
    found: Side = request.param
    return found


@pytest.fixture
def address(side: Side, dsn: Databases) -> str:
    return new_database(dsn, ATTENDANCE, side)


@pytest_asyncio.fixture
async def owner(side: Side, address: str) -> AsyncIterator[Owner]:
    owner = Owner(side, address)
    await owner.start(owner.agent())
    yield owner
    await owner.stop()


@on_any_side
async def test_a_small_one_is_done_when_it_is_answered(owner: Owner) -> None:
    entity, ops = await owner.entity_of(AT_ONCE)
    assert await owner.delete(entity) == 204
    await owner.ended(ops)
    assert not await owner.is_there(entity)
    assert not await owner.agent().run_once(), "nothing is left to do"


@on_any_side
async def test_a_large_one_is_decided_when_it_is_answered_and_ends_in_parts(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    _, others = await owner.entity_of(2)
    assert await owner.delete(entity) == 202
    assert await owner.live() == {*ops, *others}, "nothing has ended yet"
    agent = owner.agent()
    for part in range(1, PARTS):
        assert await agent.run_once()
        assert await owner.live() == {*ops[part * PART :], *others}, "the oldest end first"
        assert await owner.is_there(entity)
    assert await agent.run_once()
    assert await owner.live() == set(others)
    assert not await owner.is_there(entity)
    await owner.ended(ops)
    assert not await agent.run_once()
    assert await owner.decided() == 0
    assert await owner.delete(entity) == 404


@on_any_side
async def test_whoever_dies_between_two_parts_another_goes_on(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    assert await owner.delete(entity) == 202
    assert await owner.agent().run_once()
    assert await owner.delete(entity) == 202, "what is still large is decided already"
    assert await owner.decided() == 1
    await _finish(owner.agent())
    await owner.ended(ops)
    assert not await owner.is_there(entity)


@on_any_side
async def test_a_second_delete_of_what_is_not_large_any_more_does_the_rest(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    assert await owner.delete(entity) == 202
    agent = owner.agent()
    for _ in range(PARTS - 1):
        assert await agent.run_once()
    assert await owner.delete(entity) == 204
    await owner.ended(ops)
    await _finish(agent)
    assert await owner.decided() == 0


@on_any_side
async def test_whoever_deletes_it_by_hand_meanwhile_is_done_at_once(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    assert await owner.delete(entity) == 202
    assert await owner.agent().run_once()
    await owner.scene.kit.remove(entity)
    await owner.ended(ops)
    await _finish(owner.agent())
    assert await owner.decided() == 0


@on_any_side
async def test_two_agents_end_each_half_once(owner: Owner) -> None:
    entity, ops = await owner.entity_of(4 * MANY, NOW - 10)
    await _settled(owner)
    assert await owner.delete(entity) == 202
    async with asyncio.timeout(20):
        await asyncio.gather(*(_until_gone(owner, entity, owner.agent()) for _ in range(3)))
    await owner.ended(ops)
    if owner.side is Side.RIGHT:
        assert (await owner.scene.state()).told == {op: ["cancelled"] for op in ops}


@on_the_right
async def test_what_was_confirmed_is_told_to_end_by_whom_and_before_its_event_is_told_to_go(owner: Owner) -> None:
    entity, settled = await owner.entity_of(MANY, NOW - 10)
    await _settled(owner)
    late, pairs = owner.scene.op(), (await owner.scene.pairs_of_one(1))[1]
    assert await owner.scene.record((late, (pairs[0][0], entity))) == [RECORDED]
    await owner.database.execute("DELETE FROM outbox")
    deletions = owner.agent()
    async with owner.database.transaction() as tx:
        await tx.execute("SELECT set_config('tally.actor', 'ann', true)")
        assert await deletions.takes_over(tx, EVENT, entity, False)
    await _finish(owner.agent())
    told = await owner.database.fetch("SELECT type, subject, actor FROM outbox ORDER BY seq")
    assert [(row["type"], row["subject"]) for row in told] == [
        *(("attendance.cancelled", op) for op in settled),
        ("event.deleted", entity),
    ]
    assert {row["actor"] for row in told} == {"ann"}


@on_the_right
async def test_its_seats_are_freed_part_by_part(owner: Owner) -> None:
    entity, _ = await owner.entity_of(MANY, capacity=MANY)
    assert await owner.delete(entity) == 202
    agent = owner.agent()
    for part in range(1, PARTS):
        assert await agent.run_once()
        assert (await owner.scene.state()).seats == {entity: (MANY, MANY - part * PART)}
    await _finish(agent)
    assert (await owner.scene.state()).seats == {}


@on_any_side
async def test_what_is_recorded_meanwhile_ends_with_it(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    assert await owner.delete(entity) == 202
    agent = owner.agent()
    assert await agent.run_once()
    late = owner.scene.op()
    other = (await owner.scene.pair(entity=False))[owner.side is Side.LEFT]
    pair = (entity, other) if owner.side is Side.LEFT else (other, entity)
    assert await owner.scene.record((late, pair)) == [RECORDED]
    await _finish(agent)
    await owner.ended([*ops, late])
    assert await owner.scene.record((owner.scene.op(), pair)) == [dead(Reason.NOT_FOUND)]


@on_any_side
async def test_a_part_in_flight_keeps_no_record_of_another_entity_waiting(owner: Owner) -> None:
    entity, _ = await owner.entity_of(MANY)
    held = await owner.database.session()
    try:
        await held.execute("BEGIN")
        await held.fetch(owner.agent()._queries.end_part, [entity], PART)
        async with asyncio.timeout(5):
            await owner.scene.live()
    finally:
        held.terminate()


@on_the_right
async def test_a_cascade_is_counted_as_a_whole_and_ends_in_parts(owner: Owner) -> None:
    events = [await owner.entity_of(AT_ONCE - 1) for _ in range(3)]
    ops = [op for _, of_one in events for op in of_one]
    assert await owner.delete(CONFERENCE, "conference") == 409, "it has events"
    assert await owner.delete(CONFERENCE, "conference", "?cascade=true") == 202
    await _finish(owner.agent())
    await owner.ended(ops)
    assert [await owner.is_there(event) for event, _ in events] == [False] * 3
    assert await owner.delete(CONFERENCE, "conference") == 404


@on_the_right
async def test_a_conference_with_very_many_events_is_deleted_in_parts(owner: Owner) -> None:
    few, ops = await owner.entity_of(PART + 1)
    events = [few, *[(await owner.entity_of(0))[0] for _ in range(MANY)]]
    _, others = await owner.entity_of(2)
    elsewhere = await owner.conference_of(others)
    assert await owner.delete(CONFERENCE, "conference", "?cascade=true") == 202
    agent, left = owner.agent(), len(events)
    while await agent.run_once():
        there = sum([await owner.is_there(event) for event in events])
        assert left - there <= PART + 1, "of how many it is one transaction"
        left = there
    assert left == 0
    await owner.ended(ops)
    assert await owner.live() == set(others)
    assert await owner.delete(CONFERENCE, "conference") == 404
    assert (await owner.http.get(f"/conference/{elsewhere}")).status_code == 200


@on_any_side
async def test_one_for_a_version_that_has_passed_is_not_decided(owner: Owner) -> None:
    entity, _ = await owner.entity_of(MANY)
    assert await owner.delete(entity, **{"If-Match": '"7"'}) == 412
    assert await owner.decided() == 0


@on_any_side
async def test_while_the_database_is_being_restored_nothing_ends(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    assert await owner.delete(entity) == 202
    for table in ("attendance_mark", "incarnation"):
        await owner.database.execute(f"UPDATE {table} SET restoring = true")
        assert not await owner.agent().run_once()
        await owner.database.execute(f"UPDATE {table} SET restoring = false")
    assert await owner.live() == set(ops)
    await _finish(owner.agent())
    await owner.ended(ops)


@on_any_side
async def test_one_that_fails_keeps_no_other_waiting(owner: Owner) -> None:
    entity, ops = await owner.entity_of(MANY)
    stuck, _ = await owner.entity_of(MANY)
    await owner.database.execute(f"CREATE TABLE note (about uuid REFERENCES {owner.own} (id))")
    await owner.database.execute("INSERT INTO note VALUES ($1)", stuck)
    assert [await owner.delete(one) for one in (stuck, entity)] == [202, 202]
    deletions = owner.agent()
    deletions._period_s = 0.001
    runs = asyncio.create_task(deletions.run())
    async with asyncio.timeout(20):
        while await owner.is_there(entity):
            pass
    await owner.ended(ops)
    await owner.database.execute("DELETE FROM note")
    async with asyncio.timeout(20):
        while await owner.is_there(stuck):
            pass
    runs.cancel()


@pytest_asyncio.fixture
async def short(address: str) -> AsyncIterator[Owner]:
    """One of which no statement may take long."""
    owner = Owner(Side.RIGHT, address, statement_timeout_s=SHORT_S)
    await owner.start(owner.agent(*SHORT))
    yield owner
    await owner.stop()


@on_the_right
async def test_one_with_very_many_is_done_although_no_statement_may_take_so_long(short: Owner, address: str) -> None:
    entity, _ = await short.scene.pairs_of_one(0)
    connection = await asyncpg.connect(address)
    await connection.execute(
        "INSERT INTO attendance_half (op, author, event, st) "
        "SELECT (left($1::uuid::text, 24) || lpad(to_hex(i), 12, '0'))::uuid, gen_random_uuid(), $2, 'L' "
        "FROM generate_series(1, $3) i",
        op_at(NOW - 10),
        entity,
        VERY_MANY,
    )
    await connection.execute("UPDATE attendance_mark SET closed = $1, settled = $1", NOW - 5)
    await connection.close()
    assert await short.delete(entity) == 202
    await _finish(short.agent(*SHORT))
    assert not await short.is_there(entity)
    told = await short.database.fetchrow("SELECT count(*) FROM outbox WHERE type = 'attendance.cancelled'")
    assert told is not None
    assert told["count"] == VERY_MANY


@on_the_right
async def test_a_conference_with_very_many_events_goes_although_no_statement_may_take_so_long(
    short: Owner, address: str
) -> None:
    connection = await asyncpg.connect(address)
    await connection.execute(
        "INSERT INTO event (id, conference_id, seq) SELECT gen_random_uuid(), $1, i FROM generate_series(1, $2) i",
        CONFERENCE,
        VERY_MANY,
    )
    await connection.close()
    assert await short.delete(CONFERENCE, "conference", "?cascade=true") == 202
    await _finish(short.agent(*SHORT))
    assert await short.delete(CONFERENCE, "conference") == 404


async def _settled(owner: Owner) -> None:
    await owner.database.execute("UPDATE attendance_mark SET closed = $1, settled = $1", NOW - 5)


async def _finish(agent: Deletions) -> None:
    while await agent.run_once():
        pass


async def _until_gone(owner: Owner, entity: UUID, agent: Deletions) -> None:
    while await agent.run_once() or await owner.is_there(entity):
        pass
