"""A directory in the test's own process, on a real database and a real stream."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from services.directory.directory import SOURCES, DirectorySettings
from tally.chassis.migrate import migrate
from tally.chassis.signals import Signals
from tally.messaging.stream import Stream
from tests.integration.directory.running import Running, eventually, started
from tests.support.broker import Broker
from tests.support.postgres import Databases


def _migrated(url: str) -> None:
    """In a thread of its own: a loop may be running here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, migrate(url, SOURCES)).result()


@pytest.fixture
def database_url(dsn: Databases) -> str:
    """An empty directory's database."""
    return dsn("directory", _migrated)


@pytest.fixture
def settings(database_url: str, broker: Broker) -> DirectorySettings:
    return DirectorySettings(
        port=0, token_check="off", database_url=database_url, stream_url=broker.url, request_deadline_s=5.0
    )


@pytest.fixture
async def stream(broker: Broker) -> AsyncIterator[Stream]:
    """Who publishes."""
    async with Stream(broker.url, "test", Signals("test")) as stream:
        await eventually(lambda: asyncio.sleep(0, stream.connected), "the stream can be reached")
        yield stream


@pytest.fixture
async def here(settings: DirectorySettings, stream: Stream) -> AsyncIterator[Running]:
    """A directory that runs, and knows nothing yet."""
    async with started(settings, stream) as running:
        yield running
