"""A shadow copy follows its owner's events, says how old it is, and keeps nothing of what was deleted."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from services.attendance import ATTENDANCE
from tally.messaging.event import Event
from tally.messaging.journal import Delivered
from tally.messaging.shadow import Shadow, migrations, subjects
from tally.protocol.relationship import Copy
from tests.support.postgres import Databases

AT = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)


def copy_of(entity: str) -> Copy:
    copy = (ATTENDANCE.left if entity == "author" else ATTENDANCE.right).copy
    assert copy is not None
    return copy


@pytest.fixture
def address(dsn: Databases) -> str:
    async def prepare(address: str) -> None:
        connection = await asyncpg.connect(address)
        try:
            for entity in ("author", "event"):
                for _, text in migrations(copy_of(entity)):
                    await connection.execute(text)
        finally:
            await connection.close()

    return dsn("shadow", lambda address: asyncio.run(prepare(address)))


class Copies:
    """Both services' copies in one database."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def told(self, *events: tuple[str, UUID, int, dict[str, Any]]) -> None:
        delivered = [
            Delivered(
                Event(
                    id=uuid4(),
                    source="/tally/owner",
                    type=type,
                    time=AT,
                    subject=subject,
                    incarnation=UUID(int=1),
                    entityversion=version,
                    data={"id": str(subject), **data},
                ),
                sequence,
            )
            for sequence, (type, subject, version, data) in enumerate(events, start=1)
        ]
        for entity in ("author", "event"):
            await Shadow(copy_of(entity)).apply(self.connection, delivered)

    async def card(self, entity: str, id: UUID) -> dict[str, Any] | None:
        card = await self.connection.fetchval(f"SELECT card::text FROM shadow_{entity}_card WHERE id = $1", id)
        found: dict[str, Any] | None = card and json.loads(card)
        return found


@pytest.fixture
async def copies(address: str) -> Any:
    connection = await asyncpg.connect(address)
    await connection.set_type_codec("json", schema="pg_catalog", encoder=json_text, decoder=json.loads)
    yield Copies(connection)
    await connection.close()


def json_text(value: object) -> str:
    import msgspec

    return msgspec.json.encode(value).decode()


async def test_an_author_s_name_is_kept_with_its_age_and_nothing_else(copies: Copies) -> None:
    author = uuid4()
    await copies.told(("author.created", author, 1, {"full_name": "Ada", "email": "ada@example.org"}))
    assert await copies.card("author", author) == {
        "id": str(author),
        "full_name": "Ada",
        "version": 1,
        "as_of": AT.isoformat(),
    }


async def test_of_several_states_in_one_batch_the_last_one_is_kept(copies: Copies) -> None:
    author, gone = uuid4(), uuid4()
    await copies.told(
        ("author.created", author, 1, {"full_name": "Ada"}),
        ("author.created", gone, 1, {"full_name": "Eve"}),
        ("author.updated", author, 2, {"full_name": "Ada Lovelace"}),
        ("author.deleted", gone, 2, {"full_name": "Eve"}),
    )
    card = await copies.card("author", author)
    assert card is not None and (card["full_name"], card["version"]) == ("Ada Lovelace", 2)
    assert await copies.card("author", gone) is None


async def test_a_deletion_leaves_nothing(copies: Copies) -> None:
    author = uuid4()
    await copies.told(("author.created", author, 1, {"full_name": "Ada"}))
    await copies.told(("author.deleted", author, 2, {"full_name": "Ada"}))
    assert await copies.connection.fetchval("SELECT count(*) FROM shadow_author") == 0


async def test_an_event_is_kept_with_its_conference_whichever_is_told_first(copies: Copies) -> None:
    event, conference = uuid4(), uuid4()
    row = {"conference_id": str(conference), "seq": 3, "title": "Seals", "starts_at": None, "capacity": 9}
    await copies.told(("event.created", event, 1, row))
    card = await copies.card("event", event)
    assert card is not None and (card["title"], card["seq"], card["conference"]) == ("Seals", 3, None)
    assert "capacity" not in card
    await copies.told(("conference.created", conference, 1, {"acronym": "SWAT", "name": None}))
    card = await copies.card("event", event)
    assert card is not None and card["conference"]["acronym"] == "SWAT"


def test_what_an_event_belongs_to_is_subscribed_as_well() -> None:
    assert subjects(copy_of("event")) == ["tally.event.conference.>", "tally.event.event.>"]


@pytest.mark.parametrize("columns", [("full_name",), ("full_name text; DROP TABLE author",), ("Name text",)])
def test_a_copy_s_columns_are_names_with_types(columns: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="columns are a name and a type"):
        Copy("author", columns)


def test_a_copy_with_a_parent_has_a_column_for_it() -> None:
    with pytest.raises(ValueError, match="needs the column conference_id"):
        Copy("event", ("title text",), parent=Copy("conference", ("acronym text",)))
