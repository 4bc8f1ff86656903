"""A consumer on a stream and a database of its own, for each test that asks."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.integration.messaging.consumer import Consumer, Scene, new_database
from tests.support.broker import Broker
from tests.support.postgres import Databases


@pytest.fixture
def inbox_database(dsn: Databases) -> str:
    return new_database(dsn)


@pytest_asyncio.fixture
async def scene(broker: Broker, inbox_database: str) -> AsyncIterator[Scene]:
    async with Scene(broker, inbox_database) as scene:
        yield scene


@pytest.fixture
def consumer(scene: Scene) -> Consumer:
    return scene.consumer()
