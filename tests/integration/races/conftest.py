"""`arena`: an empty database of a party. The marks below say which parties a race is about."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio

from tally.protocol.relationship import Relationship, Side
from tests.integration.races.arena import Arena, Ground
from tests.support.postgres import Databases
from tests.support.stores import PARTIES, RIGHT_PARTIES, SEATED_PARTIES, new_database, party_id

Party = tuple[Relationship, Side]


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
