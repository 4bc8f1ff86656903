"""The last look: everything is healed; wait for the settlement, read both databases, and ask for everything once more.

Assumes that no client has a request in flight. The order matters: rows first, then lists and operations, so that these
are answers about those rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Any
from uuid import UUID

import asyncpg
import msgspec

from tally.protocol.relationship import Relationship, Side
from tests.chaos.cast import ATTENDING, Cast
from tests.chaos.client import Client, Wanted
from tests.chaos.history import (
    Completed,
    Database,
    Half,
    Kind,
    Recorder,
    Seat,
    Settlement,
    Told,
    Trouble,
    now_ns,
    wall_ms,
)

SETTLE_TIMEOUT_S = 30.0
RECOVER_TIMEOUT_S = 30.0
POLL_S = 0.1
ASKED_AT_ONCE = 16


async def recovered(client: Client, pair: tuple[UUID, UUID]) -> bool:
    """Wait until the gateway reaches both services again: a breaker that was opened tries only now and then."""
    author, event = pair
    give_up_s = asyncio.get_running_loop().time() + RECOVER_TIMEOUT_S
    while asyncio.get_running_loop().time() < give_up_s:
        done = await client.ask(Wanted(Kind.CREATE, author, event))
        read = await client.ask(Wanted(Kind.LIST_BY_EVENT, event=event))
        if not _unavailable(done) and not _unavailable(read) and read.complete:
            return True
        await asyncio.sleep(POLL_S)
    return False


def _unavailable(done: Completed) -> bool:
    return done.status in (503, 504) or done.trouble in (Trouble.LOST, Trouble.UNSENT, Trouble.TIMEOUT)


async def settled(recorder: Recorder, dsns: dict[str, str], cast: Cast = ATTENDING) -> Settlement:
    """Wait until the right side's settled mark has passed this moment, and no cancel is left to forward."""
    name = cast.relationship.name
    until_ms, began_ns = wall_ms(), now_ns()
    left, right = [await asyncpg.connect(dsns[service]) for service in cast.owners]
    try:
        while True:
            mark_ms = await right.fetchval(f"SELECT settled FROM {name}_mark")
            waiting = [
                await database.fetchval(f"SELECT count(*) FROM {name}_half WHERE st = 'C'")
                for database in (left, right)
            ]
            waited_s = (now_ns() - began_ns) / 1e9
            reached = mark_ms >= until_ms and not any(waiting)
            if reached or waited_s > SETTLE_TIMEOUT_S:
                settlement = Settlement(now_ns(), reached, until_ms, mark_ms, waited_s)
                recorder.write(settlement)
                return settlement
            await asyncio.sleep(POLL_S)
    finally:
        await left.close()
        await right.close()


async def observed(
    recorder: Recorder,
    dsns: dict[str, str],
    client: Client,
    operations: Iterable[UUID],
    about: Collection[UUID] | None = None,
) -> None:
    """Record both databases, each entity's list, and what is said of the operations.

    `about` narrows all of it to these authors and events, where others use the same databases.
    """
    left, right = [_narrowed(await _database(client.cast, side, dsns), about) for side in Side]
    recorder.write(left)
    recorder.write(right)
    wanted = [Wanted(Kind.LIST_BY_AUTHOR, author=id) for id in left.entities]
    wanted += [Wanted(Kind.LIST_BY_EVENT, event=id) for id in right.entities]
    wanted += [Wanted(Kind.STATUS, operation=op) for op in operations]
    await _ask_all(client, wanted)
    recorder.phase("observed")


async def _ask_all(client: Client, wanted: Sequence[Wanted]) -> None:
    waiting = iter(wanted)

    async def one_after_the_other() -> None:
        for one in waiting:
            await client.ask(one)

    await asyncio.gather(*(one_after_the_other() for _ in range(ASKED_AT_ONCE)))


def _narrowed(database: Database, about: Collection[UUID] | None) -> Database:
    if about is None:
        return database
    return msgspec.structs.replace(
        database,
        entities=[id for id in database.entities if id in about],
        halves=[half for half in database.halves if half.author in about and half.event in about],
        seats=[seat for seat in database.seats if seat.event in about],
        outbox=[told for told in database.outbox if told.author in about and told.event in about],
    )


async def _database(cast: Cast, side: Side, dsns: dict[str, str]) -> Database:
    connection = await asyncpg.connect(dsns[cast.relationship.end(side).service])
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return await _held(cast.relationship, side, connection)
    finally:
        await connection.close()


async def _held(relationship: Relationship, side: Side, connection: asyncpg.Connection[Any]) -> Database:
    own, name = relationship.end(side), relationship.name
    author, event = relationship.left.entity, relationship.right.entity
    mark = await connection.fetchrow(f"SELECT closed, settled FROM {name}_mark")
    halves = await connection.fetch(f"SELECT op, st, {author}, {event}, why FROM {name}_half WHERE st IN ('L', 'C')")
    entities = await connection.fetch(f"SELECT id FROM {own.entity}")
    seats = await connection.fetch(f"SELECT {event}, capacity, taken FROM {name}_seat") if own.seats else []
    outbox = []
    if side is Side.RIGHT:
        outbox = await connection.fetch(
            "SELECT seq, type, subject, data FROM outbox WHERE type LIKE $1 ORDER BY seq", f"{name}.%"
        )
    assert mark is not None
    return Database(
        own.service,
        now_ns(),
        mark["closed"],
        mark["settled"],
        [row["id"] for row in entities],
        [Half(row["op"], _status(row["st"]), row[author], row[event], row["why"]) for row in halves],
        [Seat(row[event], row["capacity"], row["taken"]) for row in seats],
        [_told(relationship, row) for row in outbox],
    )


def _told(relationship: Relationship, row: asyncpg.Record) -> Told:
    data = msgspec.json.decode(row["data"])
    return Told(
        row["seq"],
        row["type"].removeprefix(f"{relationship.name}."),
        row["subject"],
        UUID(data[relationship.left.entity]),
        UUID(data[relationship.right.entity]),
    )


def _status(st: bytes | str) -> str:
    return st.decode() if isinstance(st, bytes) else st
