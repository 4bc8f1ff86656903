"""The restorer of an author database on real PostgreSQL and NATS; its peer is the reference store."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from services.attendance import ATTENDANCE
from tally.chassis.clock import SystemClock
from tally.chassis.database import Connection, Database, Record
from tally.chassis.database_faults import DatabaseUnavailable
from tally.chassis.signals import Signals
from tally.halves.participant import Local, Participant
from tally.halves.peer import Failed, Peer
from tally.halves.postgres import PostgresStore
from tally.halves.restore import Restorer
from tally.halves.store import Restoring
from tally.messaging.event import Event
from tally.messaging.stream import Stream
from tally.protocol import messages as wire
from tally.protocol import operation
from tally.protocol.participant import Status
from tally.protocol.relationship import Side
from tests.support.broker import Broker
from tests.support.postgres import Databases
from tests.support.stores import MemoryKit, left_id, new_database, op_at, right_id

NOW = 5_000_000


class _Away:
    """The network while the peer is away."""

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: object) -> Failed:
        return Failed(False, "refused")

    def silent_since_ms(self, peer: str) -> int | None:
        return None

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        return None


class _Silent(Local):
    """The network that loses the answer to REJOIN."""

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: object) -> bytes | Failed:
        reply = await super().post(peer, path, body, kind=kind, deadline=deadline)
        return Failed(True, "timeout") if path.endswith("/rejoin") else reply


class Scene:
    def __init__(self, database: Database, stream: Stream) -> None:
        self.database = database
        self.stream = stream
        self.store = PostgresStore(ATTENDANCE, Side.LEFT, database)
        self.other = MemoryKit(ATTENDANCE, Side.RIGHT)
        self.away = self.silent = False

    def restorer(self, *, told_restored: bool = False) -> Restorer:
        """As a process makes it at its start."""
        self.database.admit = None
        clock = SystemClock()
        there = (_Silent if self.silent else Local)(
            Participant(ATTENDANCE, Side.RIGHT, self.other.store, clock, lag_ms=0)
        )
        return Restorer(
            ATTENDANCE,
            Side.LEFT,
            ["author"],
            self.database,
            Peer(ATTENDANCE, Side.RIGHT, _Away() if self.away else there),
            self.stream,
            Signals("author"),
            clock,
            told_restored=told_restored,
        )

    def peer_mark(self, **changes: object) -> None:
        self.other.store.state = replace(self.other.store.state, **changes)  # type: ignore[arg-type]


@pytest.fixture
def address(dsn: Databases) -> str:
    return new_database(dsn, ATTENDANCE, Side.LEFT)


@pytest_asyncio.fixture
async def scene(address: str, broker: Broker) -> AsyncIterator[Scene]:
    database = Database(address, "author")
    await database.start()
    async with Stream(broker.url, "test", Signals("test")) as stream:
        yield Scene(database, stream)
    await database.close()


async def made_whole(restorer: Restorer) -> None:
    while restorer.restoring:
        await restorer.run_once()


async def test_a_first_start_and_the_next_ones_are_no_restore(scene: Scene) -> None:
    for _ in range(2):
        restorer = scene.restorer()
        await restorer.look()
        assert not restorer.restoring
        await restorer.check()
    assert (await restorer.status()).items == []


async def test_a_connection_that_is_admitted_while_another_look_sees_more_is_no_restore(scene: Scene) -> None:
    restorer = scene.restorer()
    await restorer.look()

    class Slow:
        """Its answer is on its way while others write and look."""

        def __init__(self, connection: Connection) -> None:
            self._connection = connection

        async def fetchrow(self, query: str) -> Record | None:
            row = await self._connection.fetchrow(query)
            await scene.database.execute("INSERT INTO author (id, full_name) VALUES (gen_random_uuid(), 'Ada')")
            await restorer.run_once()
            return row

    async with scene.database.acquire() as connection:
        await restorer.admit(Slow(connection))  # type: ignore[arg-type]
    assert not restorer.restoring


async def test_nonsense_in_the_stream_does_not_keep_a_service_from_starting(scene: Scene) -> None:
    nonsense = Event(
        id=uuid4(),
        source="/elsewhere",
        type="nonsense.created",
        time=datetime.now(UTC),
        subject=uuid4(),
        incarnation=UUID(int=0),
        entityversion=1,
        data={},
    )
    async with asyncio.timeout(5.0):
        while not scene.stream.connected:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await scene.stream.publish(nonsense, subject=f"tally.event.author.created.{nonsense.subject}")
    restorer = scene.restorer()
    await restorer.look()
    assert not restorer.restoring


async def test_a_database_that_lives_elsewhere_was_restored(scene: Scene) -> None:
    await scene.restorer().look()
    await scene.database.execute("UPDATE incarnation SET home = '1:00000001:2:3'")
    restorer = scene.restorer()
    await restorer.look()
    assert restorer.restoring
    with pytest.raises(RuntimeError, match="restored from a backup"):
        await restorer.check()
    with pytest.raises(Restoring):
        await scene.store.resolve([op_at(NOW)])
    with pytest.raises(DatabaseUnavailable):
        await scene.database.execute("INSERT INTO author (id, full_name) VALUES (gen_random_uuid(), 'Too Early')")
    await made_whole(restorer)
    await restorer.check()
    await scene.database.execute("INSERT INTO author (id, full_name) VALUES (gen_random_uuid(), 'In Time')")
    again = scene.restorer()
    await again.look()
    assert not again.restoring


async def test_a_restore_goes_on_in_the_next_process(scene: Scene) -> None:
    await scene.restorer().begin("a test")
    restorer = scene.restorer()
    await restorer.look()
    assert restorer.restoring
    await made_whole(restorer)
    [report] = (await restorer.status()).items
    assert (report.reason, report.ended_at is not None) == ("a test", True)


async def test_what_is_live_at_the_peer_comes_back(scene: Scene) -> None:
    left, right, op = left_id(1), right_id(1), op_at(NOW)
    await scene.database.execute("INSERT INTO author (id, full_name) VALUES ($1, 'Name')", left)
    await scene.other.add(right)
    await scene.other.store.record([wire.RecordItem(op, left, right)], NOW)
    scene.peer_mark(closed=NOW, settled=NOW)
    restorer = scene.restorer()
    await restorer.look()
    assert restorer.restoring, "epochs are settled that are not closed here"
    await made_whole(restorer)
    [found] = (await scene.store.status([op])).items
    assert found.row == "live"
    ours, theirs = await scene.store.mark(), scene.other.store.state
    assert (ours.inc, ours.peer_inc) == (theirs.peer_inc, theirs.inc)
    assert scene.other.store.rows[op].status is Status.LIVE


async def test_a_second_restore_does_not_wait_for_the_first_one_s_question_that_was_answered(scene: Scene) -> None:
    restorer = scene.restorer()
    for reason in ("a test", "another test"):
        await restorer.begin(reason)
        await restorer.run_once()
        assert not restorer.restoring
    reports = (await restorer.status()).items
    assert [(one.reason, one.ended_at is not None) for one in reports] == [("another test", True), ("a test", True)]


async def test_a_question_that_was_not_answered_may_still_arrive_and_is_waited_for(scene: Scene) -> None:
    scene.silent = True
    restorer = scene.restorer()
    await restorer.begin("a test")
    with pytest.raises(Exception, match=r"waiting for the conference service \(timeout\)"):
        await restorer.run_once()
    await restorer.begin("another test")
    with pytest.raises(Exception, match="the last question to it was not answered, and may still arrive"):
        await restorer.run_once()


async def test_the_operator_s_word(scene: Scene) -> None:
    restorer = scene.restorer(told_restored=True)
    await restorer.look()
    assert restorer.restoring


async def test_without_the_peer_it_serves_and_looks_again(scene: Scene) -> None:
    scene.peer_mark(settled=NOW, closed=NOW)
    scene.away = True
    restorer = scene.restorer()
    await restorer.look()
    assert not restorer.restoring
    scene.away = False
    restorer = scene.restorer()
    await restorer.run_once()
    [report] = (await restorer.status()).items
    assert "epochs are settled" in report.reason


async def test_a_close_that_would_hide_what_went_back_is_refused(scene: Scene) -> None:
    scene.away = True
    restorer = scene.restorer()
    await restorer.look()
    participant = Participant(ATTENDANCE, Side.LEFT, scene.store, SystemClock(), lag_ms=0)
    participant.before_close = restorer.before_close
    with pytest.raises(Restoring):
        await participant.answer("close", b'{"time": 2000, "since": 1000, "limit": 10}')
    assert restorer.restoring
    assert (await scene.store.mark()).closed == 0


async def test_nobody_settles_before_the_peer_was_asked(scene: Scene) -> None:
    async def leader() -> bool:
        return True

    scene.away = True
    assert not await scene.restorer().leading(leader)()
    scene.away = False
    assert await scene.restorer().leading(leader)()
    scene.peer_mark(settled=NOW, closed=NOW)
    assert not await scene.restorer().leading(leader)()


async def test_of_two_that_were_restored_an_operator_chooses_one(scene: Scene) -> None:
    scene.peer_mark(restoring=True)
    restorer = scene.restorer()
    await restorer.begin("a test")
    with pytest.raises(Exception, match="being restored itself"):
        await restorer.run_once()
    before = (await scene.store.mark()).inc
    assert await restorer.skip("peer")
    await made_whole(restorer)
    mark = await scene.store.mark()
    assert isinstance(mark.inc, UUID) and isinstance(before, UUID)
    assert mark.inc > before
    # The other one asks now.
    await scene.other.store.pend(later := operation.make(NOW, 7))
    answer = await scene.store.rejoin(wire.Rejoin(later))
    await scene.other.store.reconcile(answer, later)
    assert (await scene.store.mark()).peer_inc == later
    assert scene.other.store.state.peer_inc == mark.inc


async def test_nothing_can_be_skipped_while_nothing_is_restored(scene: Scene) -> None:
    assert not await scene.restorer().skip("stream")


async def test_only_one_process_restores(scene: Scene) -> None:
    restorer = scene.restorer()
    await restorer.begin("a test")
    another = await scene.database.session()
    assert await another.fetchval(restorer._queries.lead)
    for _ in range(2):
        with pytest.raises(Exception, match=r"^waiting for another process, which restores it$"):
            await restorer.run_once()
    await another.close()
    await made_whole(restorer)
