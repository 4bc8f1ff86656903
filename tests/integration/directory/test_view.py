"""The read view is a function of what was told: of no order, of no repetition, of no crash, and of no rebuild."""

from __future__ import annotations

import asyncio
from random import Random
from uuid import UUID, uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from services.directory import saga
from services.directory.directory import DirectorySettings
from services.directory.projection import TABLES, Projection
from tally.chassis.clock import SystemClock
from tally.chassis.database import Database
from tally.messaging.digest import Digest, digests
from tally.messaging.event import Event
from tally.messaging.inbox import Delivered
from tally.messaging.projection import Freshness
from tally.messaging.stream import Stream
from tests.integration.directory.running import Running, eventually, started
from tests.integration.directory.telling import Telling
from tests.support.broker import Broker
from tests.support.postgres import Databases


def a_life(random: Random, *, authors: int = 12, events: int = 6, changes: int = 150) -> Telling:
    """Entities that come, change and go, and attendances of them."""
    telling = Telling()
    people = [telling.author(f"Author {number}") for number in range(authors)]
    conferences = [telling.conference(f"C{number}") for number in range(3)]
    talks = [telling.event(random.choice(conferences), number + 1) for number in range(events)]
    attended: list[UUID] = []
    for number in range(changes):
        match random.randrange(5):
            case 0:
                telling.rename(random.choice(people), f"Renamed {number}")
            case 1 if attended:
                telling.cancel(attended.pop(random.randrange(len(attended))))
            case _:
                attended.append(telling.attend(random.choice(people), random.choice(talks)))
    telling.deleted("author", people[0])
    telling.deleted("event", talks[0])
    return telling


async def told(database: Database, events: list[Event], size: int) -> tuple[dict[str, Digest], list[int]]:
    """The view of these events in batches of ``size``: its digests, and all of its counts."""
    view = Projection("live")
    for start in range(0, len(events), size):
        batch = [Delivered(event, start + place + 1) for place, event in enumerate(events[start : start + size])]
        async with database.transaction() as tx:
            await view.apply(tx, batch)
    async with database.transaction() as tx:
        counts = await tx.fetch("SELECT attendances FROM live.author ORDER BY id")
        counts += await tx.fetch("SELECT attendees FROM live.event ORDER BY id")
        conferences = await tx.fetchval("SELECT count(DISTINCT conference) FROM live.attendance WHERE live")
        return await digests(tx, "live", TABLES), [*(row[0] for row in counts), conferences]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_every_event_three_times_in_random_order_gives_the_same_view(
    seed: int, dsn: Databases, database_url: str
) -> None:
    random = Random(seed)
    events = a_life(random).events
    urls = [database_url, *(dsn("directory") for _ in range(2))]
    views = []
    for number, url in enumerate(urls):
        database = Database(url, "test")
        shuffled = events * 3 if number else list(events)
        if number:
            random.shuffle(shuffled)
        views.append(await told(database, shuffled, random.choice([1, 7, 64])))
        await database.close()
    assert views[0] == views[1] == views[2]


async def test_a_rebuild_while_events_flow_ends_with_the_same_view(here: Running) -> None:
    events = a_life(Random(4), changes=600).events
    await here.told(events[:400])
    before = await here.digest()
    flowing = asyncio.create_task(here.tell(events[400:]))
    assert (await here.admin("POST", "/admin/rebuild"))["begun"]
    answers = [(await here.get("/author?sort=attendances")).status for _ in range(20)]
    ended = await here.rebuilt()
    await flowing
    await here.settled()
    assert ended["equal"] and ended["skipped"] == 0 and ended["before"] == ended["after"]
    assert set(answers) == {200}
    assert await here.digest() != before
    assert (await here.admin("POST", "/admin/rebuild"))["begun"]
    again = await here.rebuilt()
    assert again["equal"] and again["after"] == await here.digest()
    await here.told([Telling().tell("author.created", uuid4(), {"full_name": "After the switch"})])
    assert len(await here.items("/author?name=switch")) == 1


async def test_a_rebuild_mends_a_view_that_is_wrong_and_says_so(here: Running) -> None:
    await here.told(a_life(Random(5)).events)
    right = await here.digest()
    async with here.database() as connection:
        await connection.execute("UPDATE live.author SET full_name = 'Nobody'; DELETE FROM live.attendance")
    assert await here.digest() != right
    await here.admin("POST", "/admin/rebuild")
    assert (await here.rebuilt())["equal"] is False
    assert await here.digest() == right


async def test_a_rebuild_that_was_cut_off_is_finished_by_whoever_comes_next(
    settings: DirectorySettings, stream: Stream
) -> None:
    events = a_life(Random(6), changes=900).events
    async with started(settings, stream) as first:
        await first.told(events)
        right = await first.digest()
        async with first.database() as connection, connection.transaction():
            # Who holds the live view's place keeps it from being switched.
            await connection.execute("SELECT FROM inbox_cursor WHERE consumer = 'directory-view' FOR UPDATE")
            await first.admin("POST", "/admin/rebuild")

            async def begun() -> bool:
                return bool((await first.admin("GET", "/admin/rebuild"))["sequence"])

            await eventually(begun, "the rebuild is under way")
            await first.stop()
    async with started(settings, stream) as second:
        assert (await second.rebuilt())["equal"]
        assert await second.digest() == right


async def test_a_rebuild_whose_stream_was_lost_misses_nothing_of_the_next_one(
    settings: DirectorySettings, stream: Stream, broker: Broker
) -> None:
    events = a_life(Random(7), changes=900).events
    async with started(settings, stream) as first:
        await first.told(events)
        async with first.database() as connection, connection.transaction():
            await connection.execute("SELECT FROM inbox_cursor WHERE consumer = 'directory-view' FOR UPDATE")
            await first.admin("POST", "/admin/rebuild")

            async def far() -> bool:
                return bool((await first.admin("GET", "/admin/rebuild"))["sequence"] > 500)

            await eventually(far, "the rebuild is far")
            await first.stop()
    await asyncio.to_thread(broker.wipe)
    await asyncio.to_thread(broker.start)
    await eventually(lambda: asyncio.sleep(0, stream.connected), "there is another stream")
    late = Telling()
    late.author("After the loss")
    async with started(settings, stream) as second:
        await second.told([*events[-100:], *late.events])
        await second.rebuilt()
        assert len(await second.items("/author?name=loss")) == 1
        assert len(await second.items("/author?limit=500")) == 12


async def test_a_clock_that_is_set_back_makes_no_view_fresh(here: Running, stream: Stream, broker: Broker) -> None:
    await here.told(a_life(Random(8), changes=3).events)
    clock = SystemClock(3_600_000)
    freshness = Freshness("directory-view", stream, clock)
    await freshness.run_once()
    await asyncio.to_thread(broker.stop)
    clock.offset_ms = 0
    await freshness.run_once()
    clock.offset_ms = 60_000  # a minute later
    assert (freshness.lag_s or 0) >= 59


async def test_waiting_for_an_operation_reads_ones_own_write(here: Running) -> None:
    telling = Telling()
    author = telling.author("Ada")
    event = telling.event(telling.conference("SWAT"), 1)
    await here.told(telling.events)
    op = telling.attend(author, event)
    path = f"/author/{author}/attendance?operation={op}"
    waiting = asyncio.create_task(here.get(path, Prefer="wait=4"))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await here.tell(telling.events[-1:])
    answer = await waiting
    assert answer.headers["preference-applied"] == "wait=4"
    assert [item["operation"] for item in answer.body["items"]] == [str(op)]


async def test_waiting_ends_in_time_and_then_says_nothing_was_applied(here: Running) -> None:
    answer = await here.get(f"/author?operation={uuid4()}", Prefer="wait=1")
    assert answer.status == 200
    assert "preference-applied" not in answer.headers


async def test_a_refused_operation_is_not_waited_for(here: Running) -> None:
    telling = Telling()
    op = str(uuid4())
    telling.report({"operation": op, "state": "refused", "at": "2026-03-01T12:00:00Z", "reason": "full"})
    await here.told(telling.events)
    answer = await here.get(f"/author?operation={op}", Prefer="wait=4")
    assert answer.headers["preference-applied"] == "wait=4"


async def test_a_cascade_is_one_operation_that_ends_with_its_last_attendance(here: Running) -> None:
    telling = Telling()
    author, conference = telling.author("Ada"), telling.conference("SWAT")
    attended = [telling.attend(author, telling.event(conference, seq)) for seq in (1, 2, 3)]
    await here.told(telling.events)
    deleted = telling.deleted("author", author)
    late = telling.attend(author, telling.event(conference, 4))
    await here.told(telling.events[-3:])
    begun = (await here.get(f"/operation/{deleted.id}")).body
    assert begun["state"] == "started"
    assert begun["history"][0]["detail"]["attendances"] == [str(op) for op in sorted(attended)]
    for op in [*attended, late]:
        assert (await here.get(f"/operation/{deleted.id}")).body["state"] == "started"
        telling.cancel(op, "deleted")
        await here.told(telling.events[-1:])
    ended = (await here.get(f"/operation/{deleted.id}")).body
    assert ended["state"] == "completed"
    assert ended["history"][-1]["detail"]["attendances"] == [str(op) for op in sorted([*attended, late])]


async def test_the_cascade_of_an_event_has_what_was_told_to_end_before_it(here: Running) -> None:
    telling = Telling()
    author, conference = telling.author("Ada"), telling.conference("SWAT")
    event, other = telling.event(conference, 1), telling.event(conference, 2)
    ended = telling.attend(author, event)
    cancelled = telling.attend(telling.author("Grace"), event)
    telling.attend(author, other)
    telling.cancel(cancelled, "cancelled")
    telling.cancel(ended, "deleted")
    await here.told(telling.events)
    deleted = telling.deleted("event", event)
    await here.told(telling.events[-1:])
    operation = (await here.get(f"/operation/{deleted.id}")).body
    assert operation["state"] == "completed"
    assert operation["history"][-1]["detail"]["attendances"] == [str(ended)]


async def test_a_cascade_that_is_told_all_at_once_ends_too(database_url: str) -> None:
    telling = Telling()
    author, event = telling.author("Ada"), telling.event(telling.conference("SWAT"), 1)
    op = telling.attend(author, event)
    deletion = telling.deleted("author", author)
    telling.cancel(op, "deleted")
    database, view = Database(database_url, "test"), Projection("live")
    batch = [Delivered(one, place) for place, one in enumerate(telling.events, 1)]
    async with database.transaction() as tx:
        await view.apply(tx, batch)
        await saga.apply(tx, batch)
    states = await database.fetch("SELECT state FROM operation_state WHERE operation = $1 ORDER BY seq", deletion.id)
    assert [row["state"] for row in states] == ["started", "completed"]
    await database.close()


async def test_an_event_that_is_more_work_than_a_request_may_be_holds_back_nothing(
    settings: DirectorySettings, stream: Stream
) -> None:
    settings = replace(settings, request_deadline_s=0.3)
    slow = """
        CREATE FUNCTION live.slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.8); RETURN NEW; END';
        CREATE TRIGGER slow BEFORE INSERT ON live.author
        FOR EACH ROW WHEN (NEW.full_name = 'Slow') EXECUTE FUNCTION live.slow();
    """
    connection = await asyncpg.connect(settings.database_url)
    await connection.execute(slow)
    await connection.close()
    telling = Telling()
    authors = [telling.author(name) for name in ("Slow", "Quick")]
    async with started(settings, stream) as directory:
        await directory.told(telling.events)
        shown = await directory.items("/author")
        assert {item["id"] for item in shown} == {str(author) for author in authors}


async def test_the_cascade_of_an_event_does_not_read_what_belongs_to_others(database_url: str) -> None:
    """The deletion of each event read all attendances that ever were, and the view stood still meanwhile."""
    telling = Telling()
    author, event = telling.author("Ada"), telling.event(telling.conference("SWAT"), 1)
    op = telling.attend(author, event)
    telling.cancel(op, "deleted")
    telling.deleted("event", event)
    database, view = Database(database_url, "test"), Projection("live")
    batch = [Delivered(one, place) for place, one in enumerate(telling.events, 1)]
    for live in (True, False):
        await database.execute(
            "INSERT INTO live.attendance (operation, author, event, live, since, reason, inc, version) "
            "SELECT gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1, now(), $2, gen_random_uuid(), 1 "
            "FROM generate_series(1, 20000)",
            live,
            None if live else "deleted",
        )
    await database.execute("ANALYZE live.attendance")
    async with database.transaction() as tx:
        await view.apply(tx, batch)
        await saga.apply(tx, batch)
        [read] = await tx.fetch(
            "SELECT pg_stat_get_xact_tuples_returned('live.attendance'::regclass) AS rows, "
            "(SELECT count(*) FROM saga_step) AS steps"
        )
    assert read["steps"] == 1
    assert read["rows"] < 100
    await database.close()
