"""Two or more real connections that meet at a named moment, and an eye on who waits for whom.

A *held* message is one that is still in flight: its statement has run, its transaction is open. A *racer* is a store as
the service has it, over its own pool of one connection; what it does meanwhile is a task. No test waits for time:
:meth:`Arena.until_waits` returns when PostgreSQL says that a racer waits for a lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from itertools import count
from typing import Any, TypeVar

import asyncpg
import pytest

from tally.chassis.database import Database
from tests.contract.stores.scene import Scene
from tests.support.stores import PARTIES, RIGHT_PARTIES, SEATED_PARTIES, Party, PostgresKit, party_id

T = TypeVar("T")
Connection = Any  # asyncpg's, whose own type is generic only to the type checker

#: Nothing here takes as long; a race that is lost ends by this with an error.
PATIENCE_S = 20.0
_LOOK_S = 0.002

_WAITING = """
SELECT wait_event, pg_blocking_pids(pid) AS blockers
FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'
"""


class Held:
    """A scene inside a transaction that stays open until :meth:`commit` or :meth:`rollback`."""

    def __init__(self, scene: Scene, connection: Connection) -> None:
        self.scene, self.kit = scene, scene.kit
        self._connection = connection

    async def commit(self) -> None:
        await self._connection.execute("COMMIT")

    async def rollback(self) -> None:
        await self._connection.execute("ROLLBACK")


class Racer:
    def __init__(self, name: str, scene: Scene) -> None:
        self.name, self.scene, self.kit = name, scene, scene.kit


class Ground:
    """One database of a party. Its connections outlive a race: to make one costs more than most races."""

    def __init__(self, address: str, party: Party) -> None:
        self.address, self.party = address, party
        self.connections: list[Connection] = []
        self.databases: list[tuple[str, Database]] = []
        self._names = count(1)

    async def connection(self) -> Connection:
        return self.connections.pop() if self.connections else await asyncpg.connect(self.address)

    async def database(self) -> tuple[str, Database]:
        """A service's pool of one connection, and the name that PostgreSQL knows it by."""
        if self.databases:
            return self.databases.pop()
        name = f"racer-{next(self._names)}"
        database = Database(self.address, name, pool_max=1, pool_wait_s=PATIENCE_S, statement_timeout_s=2 * PATIENCE_S)
        await database.start()
        return f"tally-{name}", database

    async def close(self) -> None:
        await asyncio.gather(*(connection.close() for connection in self.connections))
        await asyncio.gather(*(database.close() for _, database in self.databases))


class Arena:
    """The ground, empty, and those who meet there. ``capacity`` is what the entities of this race should have."""

    def __init__(self, ground: Ground, capacity: int | None = None) -> None:
        self.relationship, self.side = self.party = ground.party
        self.capacity = capacity
        self._ground = ground
        self._connections: list[Connection] = []
        self._databases: list[tuple[str, Database]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._numbers = count(1)

    async def __aenter__(self) -> Arena:
        self.eye = await self._connect()
        kit = PostgresKit(*self.party, await self._connect())
        await kit.reset()
        #: What is done and committed before and after the race.
        self.scene = self._scene(kit)
        return self

    async def __aexit__(self, *_: object) -> None:
        raced = all(task.done() for task in self._tasks)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            if connection.is_in_transaction() or not raced:
                connection.terminate()
            else:
                self._ground.connections.append(connection)
        for named in self._databases:
            if raced:
                self._ground.databases.append(named)
            else:
                await named[1].close()

    async def held(self) -> Held:
        connection = await self._connect()
        await connection.execute("BEGIN")
        return Held(self._scene(PostgresKit(*self.party, connection)), connection)

    async def racer(self) -> Racer:
        name, database = await self._ground.database()
        self._databases.append((name, database))
        return Racer(name, self._scene(PostgresKit(*self.party, database)))

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.append(task)
        return task

    async def until_waits(self, racer: Racer, task: asyncio.Task[Any] | None = None) -> str:
        """Returns what ``racer`` waits for ("advisory", "transactionid", …), once PostgreSQL says that it does."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                row = await self.eye.fetchrow(_WAITING, racer.name)
                if row is not None and row["blockers"]:
                    event: str = row["wait_event"]
                    return event
                if task is not None and task.done():
                    raise AssertionError(f"{racer.name} waited for nobody: {task.result()!r}")
                await asyncio.sleep(_LOOK_S)

    async def waiting(self, racer: Racer, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Start ``work`` of ``racer``, and return when it waits for a lock."""
        task = self.start(work)
        await self.until_waits(racer, task)
        return task

    async def _connect(self) -> Connection:
        connection = await self._ground.connection()
        self._connections.append(connection)
        return connection

    def _scene(self, kit: PostgresKit) -> Scene:
        scene = Scene(kit)
        # One sequence of ids for all: what two scenes make must not meet by accident.
        scene._numbers = self._numbers
        return scene


async def soon(task: asyncio.Task[T]) -> T:
    async with asyncio.timeout(PATIENCE_S):
        return await task


# -- which parties a race is about

Place = tuple[Party, int | None]


def _place_id(place: Place) -> str:
    party, capacity = place
    return party_id(party) + ("" if capacity is None else "-seated")


def _on(*places: Place) -> pytest.MarkDecorator:
    """The arenas of a race: a party, and the capacity of the entities in it."""
    return pytest.mark.parametrize("arena", places, ids=_place_id, indirect=True)


on_any_side = _on(*((party, None) for party in PARTIES))
on_any_side_and_with_seats = _on(*((party, None) for party in PARTIES), *((party, 5) for party in SEATED_PARTIES))
on_the_right = _on(*((party, None) for party in RIGHT_PARTIES))
with_seats = _on(*((party, 5) for party in SEATED_PARTIES))
