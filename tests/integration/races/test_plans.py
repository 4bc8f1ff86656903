"""No message reads more of a large table than it is about, whenever it was planned.

Fifty thousand halves, seen three ways: by a connection that planned its statements while the tables were empty, by
one that planned them before the first ANALYZE, and by one that did after it. PostgreSQL's counters of the transaction
tell what was read.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from tally.halves.store import FIRST_INC
from tally.protocol import messages as wire
from tally.protocol.relationship import Side
from tests.contract.stores.scene import Scene
from tests.support.postgres import Databases
from tests.support.stores import (
    CONFERENCE,
    PARTIES,
    Party,
    PostgresKit,
    left_id,
    new_database,
    op_at,
    own_of,
    party_id,
    right_id,
)

pytestmark = pytest.mark.asyncio


LEFTS, RIGHTS, HALVES = 10_000, 2_000, 50_000
BATCH = 16
OLD, NOW = 1_000_000, 1_010_000

#: Rows that one message of BATCH items may read: some look-ups per item in a few tables, never a table.
READ_MAX = 20 * BATCH

_READ = """
SELECT coalesce(sum(seq_tup_read), 0)::int + coalesce(sum(idx_tup_fetch), 0)::int FROM pg_stat_xact_user_tables
"""


def _id(first: UUID, number: str) -> str:
    return f"(left('{first}', 24) || lpad(to_hex({number}), 12, '0'))::uuid"


async def _fill(connection: Any, party: Party, few: int, many: int) -> None:
    """Entities and halves from number ``few`` to ``many`` thousandths of all, without an ANALYZE."""
    relationship, side = party

    def part(of: int) -> str:
        return f"FROM generate_series({of * few // 1000 + 1}, {of * many // 1000}) i"

    left, right = relationship.left.entity, relationship.right.entity
    own = relationship.end(side).entity
    lefts, rights = LEFTS * many // 1000, RIGHTS * many // 1000
    pairs = f"{_id(left_id(0), f'1 + i % {lefts}')}, {_id(right_id(0), f'1 + (i / {lefts} * 397 + i) % {rights}')}"
    values = {
        "author": f"INSERT INTO author (id, full_name) SELECT {_id(left_id(0), 'i')}, 'Name'",
        "speaker": f"INSERT INTO speaker (id, full_name) SELECT {_id(left_id(0), 'i')}, 'Name'",
        "session": f"INSERT INTO session (id, title) SELECT {_id(right_id(0), 'i')}, 'Title'",
        "event": "INSERT INTO event (id, conference_id, seq, capacity) "
        f"SELECT {_id(right_id(0), 'i')}, '{CONFERENCE}', i, CASE WHEN i % 2 = 0 THEN 1000 END",
    }
    await connection.execute(f"{values[own]} {part(LEFTS if side is Side.LEFT else RIGHTS)}")
    first = op_at(OLD)
    await connection.execute(
        f"INSERT INTO {relationship.name}_half (op, {left}, {right}, st, why) "
        f"SELECT {_id(first, 'i')}, {pairs}, CASE WHEN i % 10 = 0 THEN 'V' ELSE 'L' END, "
        f"CASE WHEN i % 10 = 0 THEN 'killed' END {part(HALVES)} ON CONFLICT DO NOTHING"
    )
    await connection.execute(f"UPDATE {relationship.name}_mark SET closed = {OLD}, settled = {OLD}")
    if own == "event":
        await connection.execute(
            "UPDATE attendance_seat s SET taken = (SELECT count(*) FROM attendance_half h WHERE h.live_event = s.event)"
        )


def _messages(scene: Scene, start: int) -> dict[str, Callable[[], Awaitable[object]]]:
    """One of each message, about BATCH things that are spread over the tables; ``start`` makes them new ones."""
    store, side = scene.kit.store, scene.side
    pairs = [(left_id(1 + (start + 617 * i) % LEFTS), right_id(1 + (start + 131 * i) % RIGHTS)) for i in range(BATCH)]
    new = [op_at(NOW, start * BATCH + i) for i in range(BATCH)]
    old = [UUID(int=op_at(OLD).int + 1 + (start + 3001 * i) % HALVES) for i in range(BATCH)]
    proofs = [wire.ProofItem(op, FIRST_INC[side.peer]) for op in old]
    owns = [own_of(side, *pair) for pair in pairs]
    peers = [own_of(side.peer, *pair) for pair in pairs]
    mixed = [*zip(new, pairs, strict=True)][: BATCH // 2] + [(op, pair) for op, pair in zip(old, pairs, strict=True)]
    messages: dict[str, Callable[[], Awaitable[object]]] = {
        "record": lambda: scene.record(*zip(new, pairs, strict=True), now_ms=NOW),
        "record what is there and what is not": lambda: scene.record(*mixed[:BATCH], now_ms=NOW),
        "resolve": lambda: store.resolve(old[: BATCH // 2] + new[: BATCH // 2]),
        "kill": lambda: store.kill(proofs),
        "cancel": lambda: store.cancel(old[: BATCH // 2] + new[: BATCH // 2]),
        "ack": lambda: store.ack(proofs),
        "forward": lambda: store.forward(BATCH),
        "close": lambda: store.close(wire.Close(NOW, OLD, 1000)),
        "close what was closed long ago": lambda: store.close(wire.Close(OLD, OLD, 1000)),
        "status": lambda: store.status(old),
        "find": lambda: store.find([wire.PairItem(*pair) for pair in pairs]),
        "list by own": lambda: store.list(wire.List(side.value, [wire.ListItem(id, None, 5) for id in owns])),
        "list by peer": lambda: store.list(wire.List(side.peer.value, [wire.ListItem(id, None, 5) for id in peers])),
        "delete an entity": lambda: scene.kit.remove(owns[0]),
        "what lives of entities": lambda: scene.kit.connection.fetch(
            f"SELECT {scene.relationship.name}_living($1, $2)", owns, BATCH
        ),
    }
    if side is Side.RIGHT:
        messages["settle"] = lambda: store.settle(wire.Settle(OLD, NOW, FIRST_INC[side], old))
    if scene.has_seats:
        messages["give a capacity"] = lambda: scene.kit.set_capacity(owns[0], 999)
    return messages


class Visitor:
    """A connection and how much each of its messages reads; what they write is rolled back."""

    def __init__(self, party: Party, connection: Any) -> None:
        self._connection = connection
        self._scene = Scene(PostgresKit(*party, connection))

    async def reads(self, start: int) -> dict[str, int]:
        read = {}
        for name in _messages(self._scene, start):
            # Once to plan, once to count: looking into the catalogue for a plan reads nothing of ours, but triggers do.
            for _ in range(2):
                transaction = self._connection.transaction()
                await transaction.start()
                before = await self._connection.fetchval(_READ)
                await _messages(self._scene, start)[name]()
                read[name] = await self._connection.fetchval(_READ) - before
                await transaction.rollback()
        return read


@pytest.mark.parametrize("party", PARTIES[:2], ids=party_id)
@pytest.mark.parametrize("grown", ["at once", "after an ANALYZE"])
async def test_no_message_reads_more_than_it_is_about(
    party: Party, grown: str, large_addresses: dict[Party, str]
) -> None:
    connections = [await asyncpg.connect(large_addresses[party]) for _ in range(3)]
    try:
        planned_when_empty, before_analyze, after_analyze = [Visitor(party, connection) for connection in connections]
        await planned_when_empty.reads(0)
        await _fill(connections[0], party, 0, 1000 if grown == "at once" else 20)
        if grown == "after an ANALYZE":
            # As autovacuum does sooner or later; the plans that follow are for tables of a page or two.
            await connections[0].execute("VACUUM ANALYZE")
            await planned_when_empty.reads(1)
            await _fill(connections[0], party, 20, 1000)
        found = {
            "planned when empty": await planned_when_empty.reads(2),
            "never analyzed": await before_analyze.reads(3),
        }
        await connections[0].execute("ANALYZE")
        found["analyzed"] = await after_analyze.reads(4)
        found["planned when empty, then analyzed"] = await planned_when_empty.reads(5)
    finally:
        for connection in connections:
            await connection.close()
    greedy = {f"{message}, {when}": n for when, read in found.items() for message, n in read.items() if n > READ_MAX}
    assert not greedy, "\n".join(f"{name}: {n} rows" for name, n in greedy.items())


@pytest.fixture
def large_addresses(dsn: Databases) -> dict[Party, str]:
    return {party: new_database(dsn, *party) for party in PARTIES[:2]}
