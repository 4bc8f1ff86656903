"""What the events came to, at the end: the views that others keep, and the mails; the last look's other half.

Assumes that everything is healed and nothing changes any more, so that the views will stand still: they are waited for
until they equal the owners' data, or for `CATCH_UP_S`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import asyncpg

from tests.chaos.history import Copied, Mailed, Recorder, now_ns

CATCH_UP_S = 60.0
POLL_S = 0.5
LOOK_S = 5.0

Seen = TypeVar("Seen")


@dataclass(frozen=True, slots=True)
class Copy:
    """Rows of ``service`` that must equal rows of their ``owner``."""

    name: str
    owner: str
    owned: str
    service: str
    kept: str


_ATTENDANCE = "SELECT op, author, event FROM attendance_half WHERE st = 'L'"
COPIES = (
    Copy(
        "the directory's authors",
        "author",
        "SELECT id, full_name, version FROM author",
        "directory",
        "SELECT id, full_name, version FROM live.author WHERE shown",
    ),
    Copy(
        "the directory's events",
        "conference",
        "SELECT id, conference_id, seq, title, capacity, version FROM event",
        "directory",
        "SELECT id, conference, seq, title, capacity, version FROM live.event WHERE shown",
    ),
    Copy(
        "the directory's attendances",
        "conference",
        _ATTENDANCE,
        "directory",
        "SELECT operation, author, event FROM live.attendance WHERE live",
    ),
    Copy(
        "conference's copies of authors",
        "author",
        "SELECT id, full_name, version FROM author",
        "conference",
        "SELECT id, full_name, version FROM shadow_author",
    ),
    Copy(
        "author's copies of events",
        "conference",
        "SELECT id, seq, title, version FROM event",
        "author",
        "SELECT id, seq, title, version FROM shadow_event",
    ),
)


class Inbox:
    """The mail inbox at `url`. It keeps so many mails and no more: who expects more looks while they come."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: set[tuple[str, str]] = set()

    async def look(self) -> set[tuple[str, str]]:
        """(operation, Message-ID) of the mails that confirm, with those of every look before."""
        async with aiohttp.ClientSession() as session, session.get(f"{self._url}/mail") as answer:
            items = (await answer.json())["items"]
        self._seen |= {(item["operation"], item["message_id"]) for item in items if ".confirmed@" in item["message_id"]}
        return self._seen

    async def keep_looking(self) -> None:
        """For ever; the inbox may be away now and then."""
        while True:
            with suppress(aiohttp.ClientError, TimeoutError, OSError):
                await self.look()
            await asyncio.sleep(LOOK_S)


async def followed(recorder: Recorder, dsns: Mapping[str, str], inbox: Inbox) -> None:
    """Record how the copies compare with their owners, and which mails came."""
    for copy in COPIES:
        recorder.write(await _copied(copy, dsns))
    recorder.write(await _mailed(dsns, inbox))


async def _copied(copy: Copy, dsns: Mapping[str, str]) -> Copied:
    async def compare() -> Copied:
        owned, kept = await _rows(dsns[copy.owner], copy.owned), await _rows(dsns[copy.service], copy.kept)
        return Copied(now_ns(), copy.name, len(owned), sorted(owned - kept), sorted(kept - owned))

    return await _until(compare, lambda copied: not copied.missing and not copied.surplus)


async def _rows(dsn: str, query: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return {" ".join(map(str, row)) for row in await connection.fetch(query)}
    finally:
        await connection.close()


async def _mailed(dsns: Mapping[str, str], inbox: Inbox) -> Mailed:
    """Which operations the outbox confirmed of authors who are still there, and the ids of the mails that say so."""

    async def look() -> Mailed:
        there = await _rows(dsns["author"], "SELECT id FROM author")
        told = await _rows(
            dsns["conference"],
            "SELECT subject, data->>'author' FROM outbox WHERE type = 'attendance.confirmed'",
        )
        confirmed = sorted(row.split()[0] for row in told if row.split()[1] in there)
        return Mailed(now_ns(), confirmed, sorted(await inbox.look()))

    return await _until(look, lambda mailed: set(mailed.confirmed) <= {operation for operation, _ in mailed.mails})


async def _until(look: Callable[[], Awaitable[Seen]], well: Callable[[Seen], bool]) -> Seen:
    give_up_s = asyncio.get_running_loop().time() + CATCH_UP_S
    while True:
        seen = await look()
        if well(seen) or asyncio.get_running_loop().time() > give_up_s:
            return seen
        await asyncio.sleep(POLL_S)
