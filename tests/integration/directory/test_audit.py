"""The audit trail: everything that was told, in order, and tampering is found."""

from __future__ import annotations

from random import Random
from uuid import uuid4

import asyncpg
import pytest

from tests.integration.directory.running import Running
from tests.integration.directory.telling import BEGIN, Telling
from tests.integration.directory.test_view import a_life


async def verified(here: Running) -> dict[str, object]:
    return dict(await here.admin("GET", "/admin/audit/verify"))


async def test_the_trail_says_who_did_what_to_an_entity(here: Running) -> None:
    telling = Telling()
    author = telling.author("Ada")
    telling.tell("author.updated", author, {"full_name": "Ada L.", "email": "secret@example.org"}, actor="grace")
    telling.deleted("author", author)
    op = str(uuid4())
    telling.report({"operation": op, "state": "refused", "at": BEGIN.isoformat(), "actor": "alan"})
    await here.told(telling.events)
    entries = await here.items(f"/audit?entity=author&subject={author}")
    assert [(one["type"], one["actor"]) for one in entries] == [
        ("author.created", "ada"), ("author.updated", "grace"), ("author.deleted", "ada"),
    ]  # fmt: skip
    assert "example.org" not in str(entries)
    assert [one["subject"] for one in await here.items("/audit?actor=alan")] == [op]
    assert [len(page) for page in await here.pages("/audit", 3)] == [3, 1]


async def test_the_chain_of_everything_that_was_told_holds(here: Running) -> None:
    events = a_life(Random(1)).events
    await here.told(events * 2)
    found = await verified(here)
    assert (found["seq"], found["complete"], found["broken"]) == (len(events), True, None)


async def test_the_trail_refuses_to_be_changed(here: Running) -> None:
    await here.told(a_life(Random(2), changes=5).events)
    async with here.database() as connection:
        for statement in ("UPDATE audit SET actor = 'nobody'", "DELETE FROM audit", "TRUNCATE audit"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
                await connection.execute(statement)


@pytest.mark.parametrize(
    ("tampering", "first"),
    [
        ("UPDATE audit SET actor = 'nobody' WHERE seq = 7", 7),
        ("UPDATE audit SET data = '{}' WHERE seq = 20", 20),
        ("DELETE FROM audit WHERE seq = 5", 5),
        ("DELETE FROM audit WHERE seq > 30", 31),
        ("UPDATE audit SET hash = sha256('') WHERE seq = 9", 9),
        ("UPDATE audit a SET at = b.at FROM audit b WHERE a.seq = 3 AND b.seq = 4", 3),
    ],
)
async def test_tampering_is_found_and_the_first_row_is_named(here: Running, tampering: str, first: int) -> None:
    await here.told(a_life(Random(3), changes=20).events)
    async with here.database() as connection:
        await connection.execute("ALTER TABLE audit DISABLE TRIGGER USER")
        await connection.execute(tampering)
    found = await verified(here)
    assert not found["complete"]
    assert isinstance(found["broken"], dict) and found["broken"]["seq"] == first
