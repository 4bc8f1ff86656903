"""A notifier's database, and a post office, for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.integration.notifier.deployment import PostOffice, database_for
from tests.support.postgres import Databases


@pytest.fixture
def address(dsn: Databases) -> str:
    """The address of a database with the notifier's schema."""
    return database_for(dsn)


@pytest.fixture
async def post() -> AsyncIterator[PostOffice]:
    office = PostOffice()
    await office.open()
    yield office
    await office.close()
