"""A running directory as a test sees it: its answers, and the moment when it has taken everything in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import asyncpg

from services.directory.directory import DirectorySettings, directory
from tally.chassis.app import Addresses, running
from tally.chassis.signals import Signals
from tally.local.ask import Answer, ask
from tally.messaging.event import Event
from tally.messaging.stream import Stream

PATIENCE_S = 20.0


class Running:
    """One directory, and whoever publishes to it."""

    def __init__(
        self, addresses: Addresses, task: asyncio.Task[None], stream: Stream, database_url: str, signals: Signals
    ) -> None:
        self.url, self.admin_url, self.database_url = addresses.url, addresses.admin_url, database_url
        self.signals = signals
        self._task = task
        self._stream = stream

    async def stop(self) -> None:
        """In the middle of whatever it does."""
        self._task.cancel()
        await asyncio.wait({self._task})

    async def told(self, events: Iterable[Event]) -> None:
        """Publishes events, and returns when all three inboxes have them."""
        await self.tell(events)
        await self.settled()

    async def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            assert await self._stream.publish(event)

    async def settled(self) -> None:
        """Until everything that is in the stream has been applied, or parked."""

        async def nothing_left() -> bool:
            jetstream = await self._stream.jetstream()
            consumers = await jetstream.consumers_info("TALLY_EVENTS")
            durable = [one for one in consumers if one.name.startswith("directory-")]
            return len(durable) == 3 and not any(one.num_pending or one.num_ack_pending for one in durable)

        await eventually(nothing_left, "the directory has everything")

    async def get(self, path: str, **headers: str) -> Answer:
        return await asyncio.to_thread(ask, "GET", self.url + path, headers=headers)

    async def items(self, path: str) -> list[dict[str, Any]]:
        answer = await self.get(path)
        assert answer.status == 200, answer.says()
        return list(answer.body["items"])

    async def pages(self, path: str, limit: int) -> list[list[dict[str, Any]]]:
        """All pages, following `next`."""
        pages, after = [], ""
        while True:
            answer = await self.get(f"{path}{'&' if '?' in path else '?'}limit={limit}{after}")
            assert answer.status == 200, answer.says()
            pages.append(answer.body["items"])
            assert ("link" in answer.headers) == (answer.body["next"] is not None)
            if answer.body["next"] is None:
                return pages
            after = f"&after={answer.body['next']}"

    async def admin(self, method: str, path: str) -> Any:
        answer = await asyncio.to_thread(ask, method, self.admin_url + path)
        assert answer.status < 300, answer.says()
        return answer.body

    async def digest(self) -> dict[str, Any]:
        return dict((await self.admin("GET", "/admin/digest"))["tables"])

    async def rebuilt(self) -> dict[str, Any]:
        """When the rebuild that is under way is over, and compared."""

        async def over() -> bool:
            return (await self.admin("GET", "/admin/rebuild")).get("equal") is not None

        await eventually(over, "the rebuild is over")
        return dict(await self.admin("GET", "/admin/rebuild"))

    @asynccontextmanager
    async def listening(self, path: str, **headers: str) -> AsyncIterator[aiohttp.StreamReader]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, headers=headers) as response:
            assert response.status == 200
            assert response.content_type == "text/event-stream"
            yield response.content

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
        connection = await asyncpg.connect(self.database_url)
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def started(settings: DirectorySettings, stream: Stream) -> AsyncIterator[Running]:
    """A directory in a task of its own, so that it can be stopped before the block ends."""
    signals, addresses = Signals("directory"), asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with running(directory(settings, signals)) as told:
            addresses.set_result(told)
            await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.wait({task, addresses}, return_when=asyncio.FIRST_COMPLETED)
    here = Running(addresses.result(), task, stream, settings.database_url, signals)
    try:
        yield here
    finally:
        await here.stop()


async def eventually(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    give_up_s = asyncio.get_running_loop().time() + PATIENCE_S
    while not await holds():
        assert asyncio.get_running_loop().time() < give_up_s, f"not within {PATIENCE_S:g} s: {what}"
        await asyncio.sleep(0.02)
