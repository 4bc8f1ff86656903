"""`arena`: an empty database of a party."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from tests.integration.races.arena import Arena, Ground
from tests.support.postgres import Databases
from tests.support.stores import PARTIES, Party, new_database


@pytest.fixture(scope="session")
def race_addresses(databases_of_session: Callable[[], Databases]) -> Iterator[dict[Party, str]]:
    databases = databases_of_session()
    yield {party: new_database(databases, *party) for party in PARTIES}
    databases.drop()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def grounds(race_addresses: dict[Party, str]) -> AsyncIterator[dict[Party, Ground]]:
    grounds = {party: Ground(address, party) for party, address in race_addresses.items()}
    yield grounds
    for ground in grounds.values():
        await ground.close()


@pytest_asyncio.fixture(loop_scope="session")
async def arena(request: pytest.FixtureRequest, grounds: dict[Party, Ground]) -> AsyncIterator[Arena]:
    party, capacity = request.param
    async with Arena(grounds[party], capacity) as arena:
        yield arena
