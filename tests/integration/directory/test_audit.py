"""The audit trail: everything that was told, in order, and tampering is found."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from uuid import uuid4

import asyncpg
import pytest

from tally.messaging.journal import SEEN_FOR
from tally.messaging.stream import Stream
from tests.integration.directory.running import Running, eventually
from tests.integration.directory.telling import BEGIN, Telling
from tests.integration.directory.test_view import a_life
from tests.support.broker import Broker


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


async def test_what_is_told_again_after_the_inbox_forgot_it_is_in_the_trail_once(
    here: Running, broker: Broker, stream: Stream
) -> None:
    """A stream that is an older copy is read from its beginning, however long ago that was."""
    telling = Telling()
    author = telling.author("Ada")
    op = {"operation": str(uuid4()), "at": BEGIN.isoformat()}
    telling.report({**op, "state": "unknown"}, {**op, "state": "refused"})
    await here.told(telling.events)
    copy = await asyncio.to_thread(broker.copy)
    await eventually(lambda: asyncio.sleep(0, stream.connected), "it is there again")
    async with here.database() as connection:
        await connection.execute("UPDATE inbox_event SET at = at - $1::interval", SEEN_FOR + timedelta(days=1))
    telling.rename(author, "Ada L.")
    await here.told(telling.events[2:])
    await asyncio.to_thread(broker.put_back, copy)
    await asyncio.to_thread(broker.start)
    await eventually(lambda: asyncio.sleep(0, stream.connected), "it is an older copy")
    telling.author("Alan")
    await here.tell(telling.events[3:])

    async def read() -> bool:
        return bool(await here.items(f"/audit?subject={telling.events[-1].subject}"))

    await eventually(read, "the copy has been read")
    assert [one["event_id"] for one in await here.items("/audit")] == [
        str(telling.events[n].id) for n in (0, 1, 1, 2, 3)
    ]
    assert (await verified(here))["complete"]


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
