"""A conference database catches up with a stream that holds whatever a stream may hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import pytest_asyncio

from services.attendance import ATTENDANCE
from tally.chassis.signals import Signals
from tally.messaging.catchup import CatchUp, Patient, last_event
from tally.messaging.event import Event
from tally.messaging.stream import STREAM, Stream, StreamUnavailable
from tally.protocol.relationship import Side
from tests.support.broker import Broker
from tests.support.postgres import Databases
from tests.support.stores import CONFERENCE, new_database

OLD, NEW = UUID(int=7 << 76), UUID(int=(1 << 80) | (7 << 76))
FIRST = UUID("00000000-0000-7000-8000-000000000000")


@pytest.fixture
def address(dsn: Databases) -> str:
    return new_database(dsn, ATTENDANCE, Side.RIGHT)


@pytest_asyncio.fixture
async def stream(broker: Broker) -> AsyncIterator[Stream]:
    async with Stream(broker.url, "test", Signals("test")) as stream:
        while True:
            try:
                await stream.jetstream()
                break
            except StreamUnavailable:
                await asyncio.sleep(0.02)
        yield stream


class Scene:
    """A database that was restored, and what the stream is told before it catches up."""

    def __init__(self, connection: Any, stream: Stream) -> None:
        self.connection = connection
        self.stream = stream

    async def tell(self, entity: str, change: str, data: dict[str, Any], *, inc: UUID = FIRST) -> None:
        event = Event(
            id=uuid4(),
            source="/tally/conference",
            type=f"{entity}.{change}",
            time=datetime.now(UTC),
            subject=UUID(data["id"]),
            incarnation=inc,
            entityversion=data["version"] + (change == "deleted"),
            data=data,
        )
        await self.stream.publish(event)

    async def catch_up(self) -> None:
        await self.connection.execute("SELECT attendance_restore('a test')")
        patient = Patient(self.connection)
        await CatchUp(self.stream, ["conference", "event"]).run(patient, later={"attendance": 0}, skip=False)

    async def events(self) -> dict[str, tuple[int, str | None, int]]:
        rows = await self.connection.fetch("SELECT id, seq, title, version FROM event")
        return {str(row["id"]): (row["seq"], row["title"], row["version"]) for row in rows}

    async def report(self) -> set[tuple[str, str]]:
        rows = await self.connection.fetch("SELECT kind, subject FROM restore_item WHERE subject <> $1", CONFERENCE)
        return {(row["kind"], str(row["subject"])) for row in rows}


@pytest_asyncio.fixture
async def scene(address: str, stream: Stream) -> AsyncIterator[Scene]:
    connection = await asyncpg.connect(address)
    yield Scene(connection, stream)
    await connection.close()


def event(number: int, seq: int, version: int = 1, title: str | None = None, **more: Any) -> dict[str, Any]:
    return {
        "id": str(UUID(int=number)),
        "conference_id": str(CONFERENCE),
        "seq": seq,
        "title": title,
        "starts_at": None,
        "capacity": None,
        "version": version,
        **more,
    }


def id_of(number: int) -> str:
    return str(UUID(int=number))


async def test_the_newest_state_counts_whatever_the_order(scene: Scene) -> None:
    await scene.tell("event", "updated", event(1, 1, 3, "third"))
    await scene.tell("event", "created", event(1, 1, 1, "first"))
    await scene.tell("event", "updated", event(1, 1, 2, "second"))
    await scene.tell("event", "updated", event(1, 1, 3, "third"))
    await scene.catch_up()
    assert await scene.events() == {id_of(1): (1, "third", 3)}


async def test_a_later_life_wins_over_a_higher_version(scene: Scene) -> None:
    await scene.tell("event", "updated", event(1, 1, 2, "the later life"), inc=NEW)
    await scene.tell("event", "updated", event(1, 1, 9, "the earlier life"), inc=OLD)
    await scene.catch_up()
    assert await scene.events() == {id_of(1): (1, "the later life", 2)}
    assert await scene.connection.fetchval("SELECT inc FROM incarnation") > NEW


async def test_numbers_that_were_exchanged_are_exchanged(scene: Scene) -> None:
    for number in (1, 2):
        await scene.connection.execute(
            "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, $3)", UUID(int=number), CONFERENCE, number
        )
    await scene.tell("event", "updated", event(1, 2, 4))
    await scene.tell("event", "updated", event(2, 1, 3))
    await scene.catch_up()
    assert {id: row[0] for id, row in (await scene.events()).items()} == {id_of(1): 2, id_of(2): 1}


async def test_what_the_stream_knew_better_can_be_told_again(scene: Scene) -> None:
    """A stream that is lost is filled from the outboxes: what only it knew would be gone."""
    for number in (1, 2):
        await scene.connection.execute(
            "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, $3)", UUID(int=number), CONFERENCE, number
        )
    await scene.tell("event", "deleted", event(1, 1))
    await scene.tell("event", "updated", event(2, 2, 5, "later"))
    await scene.tell("event", "created", event(3, 3))
    await scene.catch_up()
    told = await scene.connection.fetch(
        "SELECT type, subject, version, data FROM outbox WHERE inc = $1 AND published_at IS NOT NULL", FIRST
    )
    found = {(row["type"], str(row["subject"]), row["version"], json.loads(row["data"])["title"]) for row in told}
    assert found >= {
        ("event.deleted", id_of(1), 2, None),
        ("event.updated", id_of(2), 5, "later"),
        ("event.created", id_of(3), 1, None),
    }


async def test_a_deletion_outlives_a_restore_a_lost_stream_and_another_restore(scene: Scene) -> None:
    """Found by chaos: authors that had been deleted were there again."""
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, 1)", UUID(int=1), CONFERENCE
    )
    await scene.tell("event", "deleted", event(1, 1))
    await scene.catch_up()
    await scene.connection.execute("SELECT attendance_stand($1)", NEW)
    await (await scene.stream.jetstream()).purge_stream(STREAM)
    await scene.tell("event", "created", event(1, 1))
    await scene.catch_up()
    assert await scene.events() == {}


async def test_what_was_deleted_is_deleted_again_and_does_not_come_back(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, 1)", UUID(int=1), CONFERENCE
    )
    await scene.tell("event", "deleted", event(1, 1))
    await scene.tell("event", "created", event(1, 1))
    await scene.tell("event", "created", event(2, 1))
    await scene.catch_up()
    assert set(await scene.events()) == {id_of(2)}
    assert await scene.report() == {("entity-deleted", id_of(1)), ("entity-recovered", id_of(2))}


async def test_a_deletion_that_only_the_outbox_remembers_counts(scene: Scene) -> None:
    """Deleted before the backup was made, and not published yet."""
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, 1)", UUID(int=1), CONFERENCE
    )
    await scene.connection.execute("DELETE FROM event")
    await scene.tell("event", "created", event(1, 1))
    await scene.catch_up()
    assert await scene.events() == {}


async def test_what_the_stream_does_not_know_is_told_again_in_the_new_life(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, 1)", UUID(int=1), CONFERENCE
    )
    await scene.connection.execute("DELETE FROM outbox")
    await scene.catch_up()
    [told] = await scene.connection.fetch("SELECT * FROM outbox WHERE type LIKE 'event.%'")
    assert (told["type"], told["subject"], told["version"]) == ("event.created", UUID(int=1), 1)
    assert told["inc"] == await scene.connection.fetchval("SELECT inc FROM incarnation") != FIRST
    assert json.loads(told["data"])["seq"] == 1
    assert await scene.report() == {("entity-retold", id_of(1))}


async def test_nothing_that_comes_back_is_told_again(scene: Scene) -> None:
    await scene.tell("event", "created", event(1, 1))
    await scene.connection.execute("DELETE FROM outbox")
    await scene.catch_up()
    assert await scene.connection.fetch("SELECT FROM outbox WHERE type LIKE 'event.%' AND published_at IS NULL") == []


async def test_a_contradiction_is_reported_and_the_rest_comes_back(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq) VALUES ($1, $2, 1)", UUID(int=1), CONFERENCE
    )
    await scene.tell("event", "created", event(2, 1))
    await scene.tell("event", "created", event(3, 3))
    await scene.catch_up()
    assert set(await scene.events()) == {id_of(1), id_of(3)}
    found = await scene.connection.fetch("SELECT subject, detail FROM restore_item WHERE kind = 'entity-conflict'")
    assert [tuple(row) for row in found] == [(UUID(int=2), "event_seq")]


async def test_what_no_column_can_hold_is_reported_and_the_rest_comes_back(scene: Scene) -> None:
    await scene.tell("event", "created", event(1, 1))
    await scene.tell("event", "created", {**event(2, 2), "seq": "second"})
    await scene.tell("event", "created", {**event(3, 3), "starts_at": ["soon"]})
    await scene.tell("event", "created", event(4, 4, title="a\0b"))
    await scene.catch_up()
    assert await scene.events() == {id_of(1): (1, None, 1)}
    assert await scene.report() == {
        ("entity-recovered", id_of(1)),
        ("entity-conflict", id_of(2)),
        ("entity-conflict", id_of(3)),
    }


async def test_an_old_event_leaves_columns_that_it_does_not_know(scene: Scene) -> None:
    old = event(1, 1)
    del old["title"], old["capacity"]
    await scene.tell("event", "created", {**old, "forgotten": "column"})
    await scene.catch_up()
    assert await scene.events() == {id_of(1): (1, None, 1)}


async def test_a_capacity_below_what_the_backup_has_live_is_not_refused(scene: Scene) -> None:
    await scene.connection.execute(
        "INSERT INTO event (id, conference_id, seq, capacity) VALUES ($1, $2, 1, 5)", UUID(int=1), CONFERENCE
    )
    for number in (11, 12):
        await scene.connection.execute(
            "INSERT INTO attendance_half (op, author, event, st) VALUES ($1, $1, $2, 'L')",
            UUID(int=number),
            UUID(int=1),
        )
    await scene.tell("event", "updated", event(1, 1, 2, capacity=1))
    await scene.catch_up()
    assert await scene.connection.fetchval("SELECT capacity FROM event") == 1


async def test_nobody_changes_an_entity_before_it_has_caught_up(scene: Scene) -> None:
    await scene.connection.execute("SELECT attendance_restore('a test')")
    for change in ("UPDATE conference SET name = 'x'", "DELETE FROM conference"):
        with pytest.raises(asyncpg.CannotConnectNowError):
            await scene.connection.execute(change)
    await scene.catch_up()
    await scene.connection.execute("UPDATE conference SET name = 'x'")


async def test_the_latest_event_of_an_entity_is_found(scene: Scene) -> None:
    assert await last_event(scene.stream, "event") is None
    await scene.tell("event", "created", event(1, 1))
    await scene.tell("event", "deleted", event(2, 1))
    await scene.tell("conference", "deleted", {"id": str(CONFERENCE), "version": 1})
    found = await last_event(scene.stream, "event")
    assert found is not None and found.subject == UUID(int=2)
