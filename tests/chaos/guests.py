"""Many or bad visitors of a service, while everybody else goes on: a crowd, strangers, a flood.

What they ask is recorded like any request. A service that has them owes all others their answers (`history.GUESTS`).
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import uuid4

import aiohttp
import msgspec

from tally.chassis.problems import CONTENT_TYPE as PROBLEM
from tally.protocol import operation
from tests.chaos.client import Client
from tests.chaos.history import Completed, Invoked, Kind, Recorder, Trouble, now_ns, wall_ms
from tests.chaos.workload import Town, keep_asking
from tests.support.forger import Forger

Visit = Callable[[str, float], Awaitable[None]]
"""Comes to a service, and leaves after so many seconds."""

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

GUEST: Final = -2
"""The number of their client in the history."""

IDLE, SLOW = 400, 50
"""Connections of a crowd that say nothing, and that dawdle over a head or over a body."""

FLOOD: Final = 20
"""Times as many clients as there are otherwise, and none of them thinks."""

PATIENCE_S: Final = 5.0
PAUSE_S: Final = 0.1
KNOCK_PAUSE_S: Final = 0.02

SLOW_HEAD = b"POST / HTTP/1.1\r\nHost: t\r\nX-Slow: "
SLOW_BODY = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\n{"
CUT_SHORT = b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 50\r\n\r\n{"
GARBLED = (
    b"POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"0\r\n\r\nGET / HTTP/1.1\r\nHost: t\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"HELO\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
)


class Guests:
    """Of one run. `client` gives one more client that records; there are `clients` of them otherwise."""

    def __init__(
        self,
        urls: dict[str, str],
        folder: Path,
        session: aiohttp.ClientSession,
        recorder: Recorder,
        town: Town,
        client: Callable[[int], Client],
        clients: int,
    ) -> None:
        self._urls = urls
        self._folder = folder
        self._session = session
        self._recorder = recorder
        self._town = town
        self._client = client
        self._clients = clients

    @property
    def visits(self) -> dict[str, Visit]:
        """By the name of the fault."""
        return {"crowd": self.crowd, "strangers": self.strangers, "flood": self.flood}

    # -- many more clients

    async def flood(self, target: str, lasts_s: float) -> None:
        until_s = _now_s() + lasts_s
        numbers = range(self._clients, self._clients * (1 + FLOOD))
        asking = (keep_asking(self._town, self._client(n), Random(n), until_s, think_max_s=0.0) for n in numbers)
        await asyncio.gather(*asking)

    # -- connections that keep the service from nothing but rest

    async def crowd(self, target: str, lasts_s: float) -> None:
        until_s = _now_s() + lasts_s
        async with AsyncExitStack() as stack:
            for first in (*[b""] * IDLE, *[SLOW_BODY] * SLOW):
                await stack.enter_async_context(self._connected(target, first))
            slow = [await stack.enter_async_context(self._connected(target, SLOW_HEAD)) for _ in range(SLOW)]
            while _now_s() < until_s:
                for connection in slow:
                    if connection is not None:
                        connection[1].write(b"a")
                async with self._connected(target, CUT_SHORT):
                    pass  # and hangs up
                for garble in GARBLED:
                    await self._garble(target, garble)
                await asyncio.sleep(PAUSE_S)

    async def _garble(self, target: str, garble: bytes) -> None:
        number = self._recorder.number()
        self._recorder.write(Invoked(number, now_ns(), wall_ms(), GUEST, target, Kind.GARBLE))
        answer = b""
        try:
            async with self._connected(target, garble) as connection, asyncio.timeout(PATIENCE_S):
                if connection is None:
                    raise ConnectionRefusedError
                answer = await connection[0].read()
        except TimeoutError:
            self._recorder.write(Completed(number, now_ns(), trouble=Trouble.TIMEOUT, reason="it was not closed"))
        except OSError as error:
            self._recorder.write(Completed(number, now_ns(), trouble=Trouble.LOST, reason=type(error).__name__))
        else:
            self._recorder.write(_understood(number, answer))

    @asynccontextmanager
    async def _connected(self, target: str, first: bytes) -> AsyncIterator[Connection | None]:
        """None if nobody takes it. What the service does to it later is the service's right."""
        where = urlsplit(self._urls[target])
        try:
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
        except OSError:
            yield None
            return
        try:
            writer.write(first)
            yield reader, writer
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    # -- calls where only services may call

    async def strangers(self, target: str, lasts_s: float) -> None:
        until_s = _now_s() + lasts_s
        other = next(service for service in self._town.cast.owners if service != target)
        wrong = Forger(self._folder, target, other).wrong().values()
        for token in itertools.cycle([one.token for one in wrong]):
            for message, body in self._messages():
                if _now_s() > until_s:
                    return
                await self._knock(target, message, body, token)
                await asyncio.sleep(KNOCK_PAUSE_S)

    def _messages(self) -> list[tuple[str, dict[str, Any]]]:
        """What would do harm, if anybody listened: about a pair and an operation that may live."""
        author, event = self._town.pair()
        now_ms = time.time_ns() // 1_000_000
        fresh = operation.make(now_ms, uuid4().int)
        living = self._town.operation() or fresh
        return [
            ("record", {"items": [[fresh, author, event]]}),
            ("cancel", {"items": [living]}),
            ("kill", {"items": [[living, uuid4()]]}),
            ("close", {"time": now_ms + 60_000, "since": None, "limit": 10}),
        ]

    async def _knock(self, target: str, message: str, body: dict[str, Any], token: str | None) -> None:
        number = self._recorder.number()
        self._recorder.write(Invoked(number, now_ns(), wall_ms(), GUEST, target, Kind.INTRUDE))
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        url = f"{self._urls[target]}/internal/{self._town.cast.relationship.name}/{message}"
        try:
            async with self._session.post(url, data=msgspec.json.encode(body), headers=headers) as answer:
                content = await answer.read()
        except aiohttp.ClientConnectorError as error:
            ended = Completed(number, now_ns(), trouble=Trouble.UNSENT, reason=str(error))
        except TimeoutError:
            ended = Completed(number, now_ns(), trouble=Trouble.TIMEOUT)
        except (aiohttp.ClientError, OSError) as error:
            ended = Completed(number, now_ns(), trouble=Trouble.LOST, reason=type(error).__name__)
        else:
            ended = Completed(number, now_ns(), answer.status, answer.content_type, _code(content))
        self._recorder.write(ended)


def _understood(number: int, answer: bytes) -> Completed:
    """An answer as it came over the wire; the reason says what is wrong with it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head[9:12]) if head[9:12].isdigit() else None
    media = PROBLEM if PROBLEM.encode() in head else None
    answers = answer.count(b"HTTP/1.1 ")
    reason = None if answers == 1 else f"{answers} answers"
    return Completed(number, now_ns(), status, media, _code(body), reason=reason)


def _code(body: bytes) -> str | None:
    with suppress(msgspec.DecodeError):
        decoded = msgspec.json.decode(body)
        return decoded.get("code") if isinstance(decoded, dict) else None
    return None


def _now_s() -> float:
    return asyncio.get_running_loop().time()
