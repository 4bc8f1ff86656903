"""One participant's store and what surrounds it, in memory or in PostgreSQL, behind one interface for tests.

A :class:`Kit` is a store together with what its owner does (entities come and go, a capacity changes) and with
eyes on everything that the protocol keeps: rows, marks, seats, outbox. A test that speaks to a kit doesn't know
which of the two stores it speaks to.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import msgspec

from services.attendance import ATTENDANCE
from tally.halves import schema
from tally.halves.memory import MemoryStore
from tally.halves.postgres import PostgresStore
from tally.halves.store import Store
from tally.messaging import shadow
from tally.protocol import operation
from tally.protocol.participant import Mark, Status
from tally.protocol.relationship import Relationship, Side
from tests.support.postgres import Databases
from tests.support.talks import TALK

ROOT = Path(__file__).parents[2]
KEPT_AT = datetime(2026, 11, 22, tzinfo=UTC)
"""How old the copies of the kits are."""

CONFERENCE = UUID("00000000-0000-7000-8000-00000000c0f0")

Party = tuple[Relationship, Side]

#: What every suite of stores runs on.
PARTIES: list[Party] = [(relationship, side) for relationship in (ATTENDANCE, TALK) for side in Side]


RIGHT_PARTIES = [party for party in PARTIES if party[1] is Side.RIGHT]


def counts_seats(relationship: Relationship, side: Side) -> bool:
    return relationship.end(side).seats is not None


SEATED_PARTIES = [party for party in PARTIES if counts_seats(*party)]


def party_id(party: Party) -> str:
    return f"{party[0].name}-{party[1].value}"


# -- ids that can be read in a failure


def op_at(time_ms: int, number: int = 0) -> UUID:
    """The ``number``-th operation of a millisecond."""
    return operation.make(time_ms, number)


def left_id(number: int) -> UUID:
    return UUID(int=(0x1EF7 << 112) | number)


def right_id(number: int) -> UUID:
    return UUID(int=(0x2164 << 112) | number)


def inc_id(number: int) -> UUID:
    return UUID(int=(0x11C << 116) | number)


# -- what a participant keeps


class HeldRow(msgspec.Struct, frozen=True):
    status: Status
    left: UUID | None
    right: UUID | None
    why: str | None
    other: UUID | None


@dataclass(frozen=True, slots=True)
class State:
    """All that a participant keeps. ``told`` is the outbox by operation: between operations it has no order."""

    rows: Mapping[UUID, HeldRow]
    mark: Mark
    seats: Mapping[UUID, tuple[int, int]]  # capacity, taken
    told: Mapping[UUID, Sequence[str]]

    @property
    def live(self) -> set[UUID]:
        return {op for op, row in self.rows.items() if row.status is Status.LIVE}


class Kit(Protocol):
    relationship: Relationship
    side: Side

    @property
    def store(self) -> Store: ...

    async def add(self, entity: UUID, capacity: int | None = None) -> None:
        """The owner makes an entity. ``capacity`` is ignored where there are no seats."""

    async def remove(self, entity: UUID) -> None: ...
    async def set_capacity(self, entity: UUID, capacity: int | None) -> bool:
        """False if refused: fewer than are taken."""
        ...

    async def keep(self, entity: UUID) -> None:
        """A copy of an entity of the peer, where copies are declared."""

    async def set_restoring(self, restoring: bool) -> None: ...
    async def set_inc(self, inc: UUID) -> None:
        """This side becomes another incarnation, as a restore does."""

    async def state(self) -> State: ...
    async def told(self) -> list[tuple[str, UUID]]:
        """The outbox in its order: event type (without the relationship's name) and operation."""
        ...

    async def reset(self) -> None:
        """As new."""


def own_of(side: Side, left: UUID, right: UUID) -> UUID:
    return left if side is Side.LEFT else right


def card(relationship: Relationship, side: Side, entity: UUID, capacity: int | None = None) -> dict[str, Any]:
    """What the owner shows of an entity that a kit added."""
    match relationship.end(side).entity:
        case "author" | "speaker":
            return {"id": str(entity), "full_name": "Name", "version": 1}
        case "session":
            return {"id": str(entity), "title": "Title", "version": 1}
    conference = {"id": str(CONFERENCE), "acronym": "SWAT", "name": None, "version": 1}
    return {
        "id": str(entity),
        "seq": _seq(entity),
        "title": "Title",
        "starts_at": None,
        "capacity": capacity,
        "version": 1,
        "conference_id": str(CONFERENCE),
        "conference": conference,
    }


def _seq(entity: UUID) -> int:
    return entity.int & 0x7FFF_FFFF


# -- in memory


class MemoryKit:
    def __init__(self, relationship: Relationship, side: Side, kind: type[MemoryStore] = MemoryStore) -> None:
        self.relationship, self.side = relationship, side
        self._kind = kind
        self.store = kind(relationship, side)

    async def add(self, entity: UUID, capacity: int | None = None) -> None:
        if not counts_seats(self.relationship, self.side):
            capacity = None
        self._show(entity, capacity)
        if capacity is not None:
            self.store.capacity[entity] = capacity

    async def remove(self, entity: UUID) -> None:
        self.store.delete(entity)

    async def set_capacity(self, entity: UUID, capacity: int | None) -> bool:
        if entity not in self.store.entities or self.store.capacity.get(entity) == capacity:
            return True
        if capacity is not None and self._live(entity) > capacity:
            return False
        self._show(entity, capacity)
        if capacity is None:
            self.store.capacity.pop(entity, None)
        else:
            self.store.capacity[entity] = capacity
        return True

    async def keep(self, entity: UUID) -> None:
        self.store.shadow[entity] = json.dumps({"id": str(entity), "as_of": KEPT_AT.isoformat()}).encode()

    async def set_restoring(self, restoring: bool) -> None:
        self._mark(restoring=restoring)

    async def set_inc(self, inc: UUID) -> None:
        self._mark(inc=inc)

    async def state(self) -> State:
        store = self.store
        rows = {op: HeldRow(h.status, h.left, h.right, h.why, h.other) for op, h in store.rows.items()}
        seats = {entity: (most, store.taken(entity)) for entity, most in store.capacity.items()}
        return State(rows, store.state, seats, _by_operation(await self.told()))

    async def told(self) -> list[tuple[str, UUID]]:
        return [(event.type.removeprefix(f"{self.relationship.name}."), event.op) for event in self.store.outbox]

    async def reset(self) -> None:
        self.store = self._kind(self.relationship, self.side)

    def _show(self, entity: UUID, capacity: int | None) -> None:
        self.store.entities[entity] = json.dumps(card(self.relationship, self.side, entity, capacity)).encode()

    def _live(self, entity: UUID) -> int:
        """Counted here and not asked of the store, which a test may have broken on purpose."""
        rows = self.store.rows.values()
        return sum(row.status is Status.LIVE and own_of(self.side, row.left, row.right) == entity for row in rows)  # type: ignore[arg-type]

    def _mark(self, **changes: Any) -> None:
        self.store.state = replace(self.store.state, **changes)


# -- in PostgreSQL


class Statements(Protocol):
    """What a connection and a service's pool of them have in common."""

    async def execute(self, query: str, *args: Any) -> str: ...
    async def fetch(self, query: str, *args: Any) -> Any: ...
    async def fetchrow(self, query: str, *args: Any) -> Any: ...


class PostgresKit:
    """Over one connection, which may hold a transaction open (then a message is one that is in flight), or a pool."""

    def __init__(self, relationship: Relationship, side: Side, connection: Statements) -> None:
        self.relationship, self.side = relationship, side
        self.connection = connection
        self.store: Store = PostgresStore(relationship, side, connection)
        self._name = relationship.name
        self._end = relationship.end(side)

    async def add(self, entity: UUID, capacity: int | None = None) -> None:
        match self._end.entity:
            case "event":
                await self.connection.execute(
                    "INSERT INTO event (id, conference_id, seq, title, capacity) VALUES ($1, $2, $3, 'Title', $4)",
                    entity,
                    CONFERENCE,
                    _seq(entity),
                    capacity,
                )
            case "session":
                await self.connection.execute("INSERT INTO session (id, title) VALUES ($1, 'Title')", entity)
            case own:
                await self.connection.execute(f"INSERT INTO {own} (id, full_name) VALUES ($1, 'Name')", entity)

    async def remove(self, entity: UUID) -> None:
        await self.connection.execute(f"DELETE FROM {self._end.entity} WHERE id = $1", entity)

    async def set_capacity(self, entity: UUID, capacity: int | None) -> bool:
        try:
            await self.connection.execute(
                f"UPDATE {self._end.entity} SET {self._end.seats} = $2 WHERE id = $1", entity, capacity
            )
        except asyncpg.CheckViolationError as refused:
            assert refused.constraint_name == f"{self._name}_seat_capacity"
            return False
        return True

    async def keep(self, entity: UUID) -> None:
        table = f"shadow_{self.relationship.end(self.side.peer).entity}"
        await self.connection.execute(f"INSERT INTO {table} (id, version, as_of) VALUES ($1, 1, $2)", entity, KEPT_AT)

    async def set_restoring(self, restoring: bool) -> None:
        await self.connection.execute(f"UPDATE {self._name}_mark SET restoring = $1", restoring)

    async def set_inc(self, inc: UUID) -> None:
        await self.connection.execute(f"UPDATE {self._name}_mark SET inc = $1", inc)

    async def state(self) -> State:
        left, right = self.relationship.left.entity, self.relationship.right.entity
        rows = await self.connection.fetch(
            f"SELECT op, st, {left} AS l, {right} AS r, why, other FROM {self._name}_half"
        )
        return State(
            {row["op"]: HeldRow(_status(row["st"]), row["l"], row["r"], row["why"], row["other"]) for row in rows},
            await self.store.mark(),
            await self._seats(),
            _by_operation(await self.told()),
        )

    async def told(self) -> list[tuple[str, UUID]]:
        if self.side is Side.LEFT:
            return []
        left, right = self.relationship.left.entity, self.relationship.right.entity
        events = await self.connection.fetch(
            "SELECT type, subject, version, inc, data::text FROM outbox WHERE type LIKE $1 ORDER BY seq",
            f"{self._name}.%",
        )
        told = []
        for event in events:
            name, _, what = event["type"].partition(".")
            data = json.loads(event["data"])
            assert name == self._name
            assert event["version"] == {"confirmed": 1, "cancelled": 2}[what]
            assert data["operation"] == str(event["subject"])
            assert UUID(data[left]) and UUID(data[right])
            assert ("reason" in data) == (what == "cancelled")
            told.append((what, event["subject"]))
        return told

    async def reset(self) -> None:
        other = self.relationship.end(self.side.peer)
        more = f"DELETE FROM {self._name}_seat;" if self._end.seats else ""
        more += f"DELETE FROM shadow_{other.entity};" if other.copy else ""
        await self.connection.execute(
            f"DELETE FROM {self._name}_half; DELETE FROM {self._name}_ended;"
            f"{more} DELETE FROM {self._end.entity}; DELETE FROM outbox;"
            "DELETE FROM restore_item; DELETE FROM restore;"
            f"DELETE FROM {self._name}_mark; INSERT INTO {self._name}_mark DEFAULT VALUES;"
        )

    async def _seats(self) -> dict[UUID, tuple[int, int]]:
        if not self._end.seats:
            return {}
        rows = await self.connection.fetch(f"SELECT {self._end.entity} AS id, capacity, taken FROM {self._name}_seat")
        return {row["id"]: (row["capacity"], row["taken"]) for row in rows}


def _status(st: bytes | str) -> Status:
    return Status(st.decode() if isinstance(st, bytes) else st)


def _by_operation(told: Sequence[tuple[str, UUID]]) -> dict[UUID, list[str]]:
    by_op: dict[UUID, list[str]] = {}
    for what, op in told:
        by_op.setdefault(op, []).append(what)
    return by_op


# -- databases


def entity_sql(relationship: Relationship, side: Side) -> str:
    """What a service migrates before the relationship: the outbox and its entity."""
    services = ROOT / ("tests/support/talks" if relationship is TALK else "services")
    folders = [ROOT / "tally/messaging/sql", services / relationship.end(side).service / "migrations"]
    return "\n".join(path.read_text() for folder in folders for path in sorted(folder.glob("*.sql")))


async def migrate(dsn: str, relationship: Relationship, side: Side) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(entity_sql(relationship, side))
        copy = relationship.end(side.peer).copy
        for _, text in [*schema.migrations(relationship, side), *(shadow.migrations(copy) if copy else [])]:
            await connection.execute(text)
        if relationship is ATTENDANCE and side is Side.RIGHT:
            await connection.execute("INSERT INTO conference (id, acronym) VALUES ($1, 'SWAT')", CONFERENCE)
    finally:
        await connection.close()


def new_database(databases: Databases, relationship: Relationship, side: Side) -> str:
    """The address of a database with the schema of one side. Not to be called inside of an event loop."""
    template = f"half_{relationship.name}_{side.value}"
    return databases(template, lambda dsn: asyncio.run(migrate(dsn, relationship, side)))
