"""`kit`: each store, on both sides of both relationships. What a test claims of a kit holds for all of them.

The tests share an event loop, and so one connection per database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from tests.contract.stores.scene import Scene
from tests.support.postgres import Databases
from tests.support.stores import PARTIES, Kit, MemoryKit, Party, PostgresKit, new_database, party_id

Connection = Any


@pytest.fixture(scope="session")
def addresses(databases_of_session: Callable[[], Databases]) -> Iterator[dict[Party, str]]:
    """One database per party for the whole suite; a kit is reset before it is used."""
    databases = databases_of_session()
    yield {party: new_database(databases, *party) for party in PARTIES}
    databases.drop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def connections(addresses: dict[Party, str]) -> AsyncIterator[dict[Party, Connection]]:
    opened = {party: await asyncpg.connect(address) for party, address in addresses.items()}
    yield opened
    for connection in opened.values():
        await connection.close()


@pytest.fixture(params=PARTIES, ids=party_id)
def party(request: pytest.FixtureRequest) -> Party:
    found: Party = request.param
    return found


@pytest.fixture(params=["memory", "postgres"])
def store_kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest_asyncio.fixture(loop_scope="session")
async def kit(store_kind: str, party: Party, connections: dict[Party, Connection]) -> Kit:
    if store_kind == "memory":
        return MemoryKit(*party)
    kit = PostgresKit(*party, connections[party])
    await kit.reset()
    return kit


@pytest_asyncio.fixture(loop_scope="session")
async def scene(kit: Kit) -> Scene:
    return Scene(kit)
