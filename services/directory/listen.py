"""Operations as they go on: server-sent events (the WHATWG's `text/event-stream`), fed by one reader for all listeners.

An event's id is its place in the log, so who comes back with `Last-Event-ID` misses nothing. A comment goes out now
and then, so that a proxy, or a listener who has gone, is noticed. A stream ends at a final state, after some minutes
(its listener comes back by itself), and when the service stops.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final
from uuid import UUID

import msgspec
import structlog
from starlette.responses import StreamingResponse

from services.directory import log
from tally.chassis.database import Database, Record
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.problems import Problem

LISTENERS_MAX: Final = 256
_LOOK_S: Final = 0.25
_HEARTBEAT_S: Final = 10.0
_LIFE_S: Final = 600.0
_AGAIN_MS: Final = 1000

_log = structlog.get_logger()


class Listeners:
    """Who listens, to which operation. An agent: `run` looks for news as long as somebody does."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._listeners: set[_Listener] = set()
        self._somebody = asyncio.Event()
        self._closed = False

    def answer(self, operation: UUID, after: int) -> StreamingResponse:
        """The stream of an operation, from behind row ``after`` of the log. Problem if too many listen."""
        if len(self._listeners) >= LISTENERS_MAX or self._closed:
            raise Problem("overloaded", f"{LISTENERS_MAX} listen already.")
        listener = _Listener(operation, after)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(self._stream(listener), media_type="text/event-stream", headers=headers)

    def close(self) -> None:
        """Ends all streams: the service stops."""
        self._closed = True
        for listener in self._listeners:
            listener.news.put_nowait(None)

    async def run(self) -> None:
        while True:
            await self._somebody.wait()
            try:
                await self.run_once()
            except DatabaseFault as fault:
                _log.info("no news of operations", reason=fault.reason)
            await asyncio.sleep(_LOOK_S)
            if not self._listeners:
                self._somebody.clear()

    async def run_once(self) -> None:
        """Tells each listener what it has not heard."""
        listeners = list(self._listeners)
        rows = await self._database.fetch(log.queries.news, list({one.operation for one in listeners}))
        for row in rows:
            for listener in listeners:
                listener.hear(row)

    async def _stream(self, listener: _Listener) -> AsyncIterator[bytes]:
        self._listeners.add(listener)
        self._somebody.set()
        try:
            yield b"retry: %d\n\n" % _AGAIN_MS
            async with asyncio.timeout(_LIFE_S):
                while (row := await listener.next(_HEARTBEAT_S)) is not None:
                    yield row if isinstance(row, bytes) else _event(row)
                    if not isinstance(row, bytes) and row["final"]:
                        return
        except TimeoutError:
            return
        finally:
            self._listeners.discard(listener)


class _Listener:
    """One listener: what it has heard, and what waits to be sent to it."""

    def __init__(self, operation: UUID, after: int) -> None:
        self.operation = operation
        self.news: asyncio.Queue[Record | None] = asyncio.Queue()
        self._after = after
        self._heard: set[int] = set()

    def hear(self, row: Record) -> None:
        """Rows are not always seen in the order of their numbers, so the last one heard does not say enough."""
        seq: int = row["seq"]
        if row["operation"] == self.operation and seq > self._after and seq not in self._heard:
            self._heard.add(seq)
            self.news.put_nowait(row)

    async def next(self, within_s: float) -> Record | bytes | None:
        """What to send; a comment if nothing happens; None at the end."""
        try:
            async with asyncio.timeout(within_s):
                return await self.news.get()
        except TimeoutError:
            return b": still there\n\n"


def _event(row: Record) -> bytes:
    data = msgspec.json.encode(log.entry(row))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (row["seq"], row["state"].encode(), data)
