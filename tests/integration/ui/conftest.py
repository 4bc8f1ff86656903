"""A gateway in this process, in each mode of its page, with nobody behind it: the page does not depend on that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Literal

import aiohttp
import pytest

from services.gateway.__main__ import Settings, build
from tally.chassis.app import Addresses, running
from tally.chassis.signals import Signals
from tally.local.processes import free_port

#: An address that refuses connections.
NOBODY = "http://127.0.0.1:9"
Mode = Literal["off", "read", "full"]
Started = Callable[[Mode], Awaitable[Addresses]]


@pytest.fixture
async def started() -> AsyncIterator[Started]:
    """Starts a gateway whose setting `ui` is what is given."""
    async with AsyncExitStack() as stack:

        async def start(mode: Mode) -> Addresses:
            port = free_port(beside=1000)
            settings = Settings(
                port=port, token_check="off", faults="on", ui=mode, author_url=NOBODY, conference_url=NOBODY,
                directory_url=NOBODY, stream_url="nats://127.0.0.1:9",
            )  # fmt: skip
            return await stack.enter_async_context(running(build(settings, Signals("gateway", environ={}))))

        yield start


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
