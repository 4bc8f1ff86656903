"""Both ways out of the database, on a real PostgreSQL and a real broker: the same claims hold for both."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tally.chassis import migrate
from tally.chassis.agents import end
from tally.chassis.clock import SystemClock
from tally.chassis.database import Database
from tally.chassis.migrate import Source
from tally.chassis.signals import Signals
from tally.messaging.event import Event, decode
from tally.messaging.outbox import EVER, Outbox
from tally.messaging.relay import Relay
from tally.messaging.stream import Bookmark, Stream, StreamUnavailable
from tally.messaging.wal import WalRelay
from tests.support.broker import Broker
from tests.support.postgres import Databases

WRITE = "INSERT INTO outbox (type, subject, version, inc, data, trace) VALUES ($1, $2, $3, $4, $5, $6) RETURNING id"
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Scene:
    """A database with an outbox, a broker, and as many relays as a test starts."""

    def __init__(self, kind: type[Relay], url: str, broker: Broker, connection: Any) -> None:
        self.kind, self.url, self.broker, self.connection = kind, url, broker, connection
        self.signals = Signals("test")

    async def write(self, version: int = 1, subject: UUID | None = None, on: Any = None, **data: Any) -> UUID:
        """An event of a new subject, or the next one of an old one."""
        args = ("author.updated", subject or uuid4(), version, UUID(int=0), json.dumps(data), TRACE)
        written: UUID = await (on or self.connection).fetchval(WRITE, *args)
        return written

    async def another(self) -> Any:
        return await asyncpg.connect(self.url)

    @asynccontextmanager
    async def relay(self, **settings: Any) -> AsyncIterator[Relay]:
        """One that runs."""
        async with self.still(**settings) as relay:
            running = asyncio.create_task(relay.run())
            try:
                yield relay
                if running.done():
                    running.result()
            finally:
                await end(running)

    @asynccontextmanager
    async def still(self, **settings: Any) -> AsyncIterator[Relay]:
        """One that waits to be run."""
        database = Database(self.url, "test", pool_max=2, statement_timeout_s=10)
        await database.start()
        signals, self.signals = self.signals, Signals("test")
        try:
            async with Stream(self.broker.url, "test", signals) as stream:
                yield self.kind(Outbox(database, "test"), stream, self.url, signals, SystemClock(), **settings)
        finally:
            await database.close()

    async def unpublished(self) -> int:
        return int(await self.connection.fetchval("SELECT count(*) FROM outbox WHERE published_at IS NULL"))

    async def drained(self) -> None:
        await until(self._is_drained)

    async def _is_drained(self) -> bool:
        return await self.unpublished() == 0

    async def stream(self) -> list[Event]:
        """All that is in the stream, in its order."""
        async with Stream(self.broker.url, "reader", Signals("reader")) as stream:
            await until(lambda: _true(stream.connected))
            last = await stream.last_sequence()
            context = await stream.jetstream()
            messages = [await context.get_msg("TALLY_EVENTS", n, direct=False) for n in range(1, last + 1)]
            return [decode(message.data) for message in messages if message.data is not None]

    async def ids(self) -> list[UUID]:
        return [event.id for event in await self.stream()]


async def _true(what: bool) -> bool:
    return what


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(40):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def _prepare(url: str) -> None:
    source = Source("messaging", migrate.files(files("tally.messaging").joinpath("sql")))
    asyncio.run(migrate.migrate(url, [source]))


@pytest.fixture
def url(dsn: Databases) -> str:
    """Made outside of the test's event loop."""
    return dsn("outbox", _prepare)


@pytest.fixture(params=[Relay, WalRelay], ids=["outbox", "wal"])
async def scene(request: pytest.FixtureRequest, url: str, broker: Broker) -> AsyncIterator[Scene]:
    connection = await asyncpg.connect(url)
    try:
        yield Scene(request.param, url, broker, connection)
    finally:
        await connection.close()


async def test_what_is_written_is_in_the_stream_as_it_was_written(scene: Scene) -> None:
    subject = uuid4()
    async with scene.relay():
        written = await scene.write(3, subject, name="Ünal ☃", empty=None, nested={"a": [1, 2.5]})
        await scene.drained()
        (event,) = await scene.stream()
    assert (event.id, event.subject, event.type, event.entityversion) == (written, subject, "author.updated", 3)
    assert event.data == {"name": "Ünal ☃", "empty": None, "nested": {"a": [1, 2.5]}}
    assert (event.source, event.traceparent, event.incarnation) == ("/tally/test", TRACE, UUID(int=0))
    assert abs(event.time - datetime.now(UTC)) < timedelta(minutes=1)


async def test_a_transaction_that_commits_late_is_not_skipped(scene: Scene) -> None:
    late = await scene.another()
    async with scene.relay():
        transaction = late.transaction()
        await transaction.start()
        first = await scene.write(on=late)
        after = [await scene.write() for _ in range(5)]
        await scene.drained()
        await transaction.commit()
        await scene.drained()
        assert await scene.ids() == [*after, first]
    await late.close()


async def test_what_was_rolled_back_is_never_published(scene: Scene) -> None:
    other = await scene.another()
    async with scene.relay():
        transaction = other.transaction()
        await transaction.start()
        await scene.write(on=other)
        await transaction.rollback()
        kept = await scene.write()
        await scene.drained()
        assert await scene.ids() == [kept]
    await other.close()


async def test_the_events_of_a_subject_keep_their_order(scene: Scene) -> None:
    subjects = [uuid4() for _ in range(3)]
    async with scene.relay(batch_max=7):
        for version in range(1, 21):
            for subject in subjects:
                await scene.write(version, subject)
        await scene.drained()
    seen = defaultdict(list)
    for event in await scene.stream():
        seen[event.subject].append(event.entityversion)
    assert dict(seen) == {subject: list(range(1, 21)) for subject in subjects}


async def test_a_broker_that_is_away_costs_time_and_no_event(scene: Scene) -> None:
    async with scene.relay() as relay:
        before = [await scene.write() for _ in range(20)]
        await scene.drained()
        scene.broker.kill()
        meanwhile = [await scene.write() for _ in range(50)]
        await relay.measure()
        assert await scene.unpublished() == 50
        scene.broker.start()
        await scene.drained()
        assert sorted(await scene.ids()) == sorted([*before, *meanwhile])


async def test_a_relay_that_is_cancelled_anywhere_publishes_at_least_once(scene: Scene) -> None:
    written = [await scene.write(version, None) for version in range(200)]
    for pause_s in (0.0, 0.005, 0.02, 0.05, 0.1):
        async with scene.relay(batch_max=10):
            await asyncio.sleep(pause_s)
    async with scene.relay():
        await scene.drained()
    assert set(await scene.ids()) == set(written)


async def test_an_event_that_the_broker_refuses_holds_back_its_own_subject_only(scene: Scene) -> None:
    subject = uuid4()
    signals = scene.signals
    async with scene.relay(batch_max=4):
        await scene.write(1, subject)
        await scene.drained()
        poison = await scene.write(2, subject, text="x" * 1_200_000)
        held = [await scene.write(version, subject) for version in (3, 4)]
        others = [await scene.write() for _ in range(20)]

        async def rest() -> bool:
            return await scene.unpublished() == 3

        await until(rest)
        assert set(await scene.ids()) >= set(others)
        assert not {poison, *held} & set(await scene.ids())
    assert (signals.registry.get_sample_value("tally_publish_failures_total") or 0) >= 1


async def test_two_relays_share_the_work_and_keep_the_order(scene: Scene) -> None:
    subjects = [uuid4() for _ in range(10)]
    async with scene.relay(batch_max=5), scene.relay(batch_max=5):
        for version in range(1, 21):
            for subject in subjects:
                await scene.write(version, subject)
        await scene.drained()
    seen = defaultdict(list)
    for event in await scene.stream():
        seen[event.subject].append(event.entityversion)
    assert dict(seen) == {subject: list(range(1, 21)) for subject in subjects}


async def test_another_relay_takes_over(scene: Scene) -> None:
    async with scene.relay():
        async with scene.relay():
            await scene.write()
            await scene.drained()
        written = [await scene.write() for _ in range(10)]
        await scene.drained()
    assert set(await scene.ids()) >= set(written)


async def test_a_clock_that_is_set_back_holds_back_nothing(scene: Scene) -> None:
    subject = uuid4()
    written = [await scene.write(1, subject)]
    await scene.connection.execute("UPDATE outbox SET at = at + interval '1 hour'")
    written.append(await scene.write(2, subject))
    async with scene.relay():
        await scene.drained()
    assert await scene.ids() == written


async def test_what_was_published_can_be_published_again(scene: Scene) -> None:
    old = await scene.write()
    async with scene.relay() as relay:
        await scene.drained()
        await scene.connection.execute("UPDATE outbox SET at = at - interval '3 hours'")
        recent = [await scene.write() for _ in range(5)]
        await scene.drained()
        now = await relay._outbox.now()
        assert await relay._outbox.republish(datetime.now(UTC) - timedelta(hours=2)) == 5
        await scene.drained()
        again = await scene.connection.fetch("SELECT id FROM outbox WHERE published_at >= $1", now)
        assert sorted(row["id"] for row in again) == sorted(recent)
        assert old not in recent


async def test_publishing_again_ends_however_fast_relays_publish(scene: Scene) -> None:
    ids = [await scene.write(n) for n in range(2500)]
    async with scene.relay() as relay:
        await scene.drained()
        assert await relay._outbox.republish(EVER) == len(ids)
        await scene.drained()


async def test_a_part_of_what_is_published_again_goes_on_where_it_stopped(scene: Scene) -> None:
    [await scene.write(n) for n in range(2500)]
    async with scene.relay() as relay:
        await scene.drained()
        now = await relay._outbox.now()
        parts = [await relay._outbox.republish(EVER, now, most=1000) for _ in range(4)]
        assert parts == [1000, 1000, 500, 0]


async def test_what_was_in_a_stream_that_is_gone_is_published_again(scene: Scene) -> None:
    ids = [await scene.write(n) for n in range(5)]
    async with scene.relay() as relay:
        await scene.drained()
        await until(lambda: _is_seen(relay))
        await asyncio.to_thread(scene.broker.wipe)
        ids.append(await scene.write(5))
        await asyncio.to_thread(scene.broker.start)
        await until(lambda: _holds(scene, ids))


async def test_a_stream_that_is_lost_while_it_is_looked_at_is_noticed(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [await scene.write(n) for n in range(5)]
    async with scene.relay() as relay:
        await scene.drained()
        await until(lambda: _is_seen(relay))
    async with scene.still() as relay:
        await until(lambda: _true(relay._stream.connected))
        holds = Stream.holds

        async def and_lost(stream: Stream, bookmark: Bookmark) -> bool:
            held = await holds(stream, bookmark)
            scene.broker.wipe()
            scene.broker.start()
            await until(lambda: _is_another(stream, bookmark))
            return held

        with monkeypatch.context() as patch:
            patch.setattr(Stream, "holds", and_lost)
            await relay.look()
        await relay.look()
        assert await scene.unpublished() == len(ids)


async def _is_another(stream: Stream, bookmark: Bookmark) -> bool:
    try:
        return (await stream.end()).stream != bookmark.stream
    except StreamUnavailable:
        return False


async def test_what_was_published_before_the_clock_was_set_back_is_published_again_too(scene: Scene) -> None:
    ids = [await scene.write(n) for n in range(1500)]
    async with scene.relay() as relay:
        await scene.drained()
        ahead = "UPDATE outbox SET published_at = published_at + interval '1 hour' WHERE version >= 200"
        await scene.connection.execute(ahead)
        assert await relay._outbox.republish(EVER) == len(ids)
        await scene.drained()


async def test_what_an_older_copy_of_the_stream_lacks_is_published_again(scene: Scene) -> None:
    ids = [await scene.write(n) for n in range(2)]
    async with scene.relay() as relay:
        await scene.drained()
        copy = await asyncio.to_thread(scene.broker.copy)
        ids += [await scene.write(n) for n in range(3)]
        await scene.drained()
        await until(lambda: _is_seen(relay))
        await asyncio.to_thread(scene.broker.put_back, copy)
        ids += [await scene.write(n) for n in range(7)]
        await asyncio.to_thread(scene.broker.start)
        await until(lambda: _holds(scene, ids))


async def test_a_stream_that_was_only_stopped_is_not_published_to_again(scene: Scene) -> None:
    ids = [await scene.write(n) for n in range(5)]
    async with scene.relay() as relay:
        await scene.drained()
        await until(lambda: _is_seen(relay))
        await asyncio.to_thread(scene.broker.kill)
        ids.append(await scene.write(5))
        await asyncio.to_thread(scene.broker.start)
        await scene.drained()
        await relay.look()
        assert await scene.unpublished() == 0
    assert await scene.ids() == ids


async def _is_seen(relay: Relay) -> bool:
    """The relay has taken note of the stream as it is now."""
    return await relay._outbox.stream() == await relay._stream.end()


async def _holds(scene: Scene, ids: list[UUID]) -> bool:
    return set(await scene.ids()) == set(ids)


async def test_published_rows_are_deleted_when_they_are_old(scene: Scene) -> None:
    for _ in range(3):
        await scene.write()
    async with scene.relay():
        await scene.drained()
    waiting = await scene.write()
    await scene.connection.execute("UPDATE outbox SET published_at = published_at - interval '8 days'")
    async with scene.still() as relay:
        assert await relay._outbox.tidy(timedelta(days=7)) == 3
    assert await scene.connection.fetchval("SELECT id FROM outbox") == waiting


async def test_what_waits_is_counted_and_its_age_known(scene: Scene) -> None:
    scene.broker.stop()
    signals = scene.signals
    async with scene.relay() as relay:
        await scene.write()
        await scene.write()
        await relay.measure()
        assert signals.registry.get_sample_value("tally_outbox_rows") == 2
        assert (signals.registry.get_sample_value("tally_outbox_oldest_seconds") or -1) >= 0
        assert signals.registry.get_sample_value("tally_published_total") == 0
        scene.broker.start()
        await scene.drained()
        await relay.measure()
        assert signals.registry.get_sample_value("tally_outbox_rows") == 0
        assert signals.registry.get_sample_value("tally_outbox_oldest_seconds") == 0
        assert signals.registry.get_sample_value("tally_published_total") == 2


async def test_each_event_has_a_span_linked_to_the_request_that_caused_it(scene: Scene) -> None:
    exporter = InMemorySpanExporter()
    scene.signals = Signals("test", span_exporter=exporter)
    async with scene.relay():
        written = await scene.write()
        await scene.drained()
    (span,) = exporter.get_finished_spans()
    assert (span.name, span.kind.name, (span.attributes or {})["tally.event"]) == ("relay", "PRODUCER", str(written))
    (link,) = span.links
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}" == TRACE[3:52]


# --- the log alone


@pytest.fixture
async def log_scene(url: str, broker: Broker) -> AsyncIterator[Scene]:
    connection = await asyncpg.connect(url)
    try:
        yield Scene(WalRelay, url, broker, connection)
    finally:
        await connection.close()


SLOTS = "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()"
DROP = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()"


async def test_a_slot_that_is_lost_loses_no_event(log_scene: Scene) -> None:
    async with log_scene.relay():
        before = [await log_scene.write() for _ in range(20)]
        await log_scene.drained()
    meanwhile = [await log_scene.write() for _ in range(20)]
    await log_scene.connection.execute(DROP)
    meanwhile += [await log_scene.write() for _ in range(20)]
    async with log_scene.relay():
        await log_scene.drained()
        assert len(await log_scene.connection.fetch(SLOTS)) == 1
        assert sorted(await log_scene.ids()) == sorted([*before, *meanwhile])


async def test_a_slot_that_is_lost_while_it_is_read_loses_no_event(log_scene: Scene) -> None:
    async with log_scene.relay():
        written = [await log_scene.write() for _ in range(10)]
        await log_scene.drained()
        dropped = False
        while not dropped:
            try:
                await log_scene.connection.execute(DROP)
                dropped = True
            except asyncpg.ObjectInUseError:
                await asyncio.sleep(0.01)
        written += [await log_scene.write() for _ in range(10)]
        await log_scene.drained()
        assert sorted(await log_scene.ids()) == sorted(written)


async def test_a_publication_that_is_gone_is_made_anew(log_scene: Scene) -> None:
    async with log_scene.relay():
        await until(lambda: _has_slot(log_scene))
        await log_scene.connection.execute("DROP PUBLICATION tally_outbox")
        written = [await log_scene.write() for _ in range(10)]
        await log_scene.drained()
        await until(lambda: _has_publication(log_scene))
        await until(lambda: _has_slot(log_scene))
        assert sorted(await log_scene.ids()) == sorted(written)


async def _has_publication(scene: Scene) -> bool:
    return bool(await scene.connection.fetch("SELECT FROM pg_publication WHERE pubname = 'tally_outbox'"))


async def _has_slot(scene: Scene) -> bool:
    return bool(await scene.connection.fetch(SLOTS))


async def test_a_backlog_in_the_log_is_read_without_a_pause(log_scene: Scene) -> None:
    async with log_scene.still(batch_max=16) as relay:
        await until(lambda: _true(relay._stream.connected))
        while not relay._slot or await relay._slot_ready(await relay._leading()) is None:
            await relay.run_once()
        for n in range(40):
            await log_scene.write(n)
        relay._woken.clear()
        published = [await relay.run_once(), await relay.run_once()]
        assert relay._woken.is_set(), "there is more, and nobody waits for a second"
        assert sum(published) >= 2 * 15
        relay._leave()


async def test_a_transaction_of_more_than_the_stream_takes_at_once_is_published(
    log_scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a cascade: the log gives it whole."""
    monkeypatch.setattr("tally.messaging.stream.PENDING_MAX_BYTES", 20_000)
    async with log_scene.relay(batch_max=16):
        ids = [await log_scene.write(n) for n in range(3)]
        await log_scene.drained()
        async with log_scene.connection.transaction():
            ids += [await log_scene.write(n) for n in range(200)]
        await log_scene.drained()
        await until(lambda: _holds(log_scene, ids))
    assert len(await log_scene.ids()) == len(ids), "each once"


async def test_the_log_is_let_go_of(log_scene: Scene) -> None:
    """What others write to the database moves the slot, too."""
    signals = log_scene.signals
    async with log_scene.relay():
        await log_scene.write()
        await log_scene.drained()
        await log_scene.connection.execute("CREATE TABLE noise (text text)")
        noise = "INSERT INTO noise SELECT repeat('x', 1000) FROM generate_series(1, 2000)"
        for _ in range(4):
            await log_scene.connection.execute(noise)

        async def caught_up() -> bool:
            lag = signals.registry.get_sample_value("tally_slot_lag_bytes")
            return lag is not None and lag < 1_200_000 and await behind(log_scene) < 1_200_000

        await until(caught_up)
    assert await log_scene.connection.fetchval("SHOW max_slot_wal_keep_size") == "1GB"


async def behind(scene: Scene) -> int:
    return int(
        await scene.connection.fetchval(
            "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), confirmed_flush_lsn) FROM pg_replication_slots "
            "WHERE database = current_database()"
        )
    )
