"""Server-sent events (the WHATWG's `text/event-stream`): one reader of the news for all who listen; for nobody, none.

Assumes that each event is a whole picture, so that who is slow may miss some. A listener who takes nothing for a while
is let go; a browser that is still there comes back by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tally.chassis.clock import Clock
from tally.chassis.http import LASTING
from tally.chassis.problems import Problem

#: Each costs a kilobyte or two a second, and a page needs one.
LISTENERS_MAX: Final = 16
PERIOD_S: Final = 1.0
#: With no picture for this long, a comment says that the connection is not dead.
_HEARTBEAT_S: Final = 5.0
#: How long a listener may take nothing.
_PATIENCE_S: Final = 10.0
_AGAIN_MS: Final = 1000
_HEADERS: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
    (b"x-content-type-options", b"nosniff"),
)

log = structlog.get_logger()

#: Makes the picture: JSON, in one line.
Look = Callable[[], Awaitable[bytes]]


class Feed:
    """Who listens. While somebody does, a task looks once a second."""

    def __init__(self, look: Look, clock: Clock) -> None:
        self._look = look
        self._clock = clock
        self._listeners: set[asyncio.Queue[bytes | None]] = set()
        self._looking: asyncio.Task[None] | None = None
        self._closed = False

    async def answer(self, request: Request) -> Response:
        """The events, for as long as somebody listens. Problem if too many do."""
        if self._closed or len(self._listeners) >= LISTENERS_MAX:
            raise Problem("overloaded", f"{len(self._listeners)} look already.")
        return _Events(self)

    def close(self) -> None:
        """Ends all streams: the service stops."""
        self._closed = True
        for listener in self._listeners:
            _hand_over(listener, None)

    def join(self) -> asyncio.Queue[bytes | None]:
        """A place where the newest picture is; None is the end."""
        listener: asyncio.Queue[bytes | None] = asyncio.Queue(1)
        self._listeners.add(listener)
        if self._looking is None:
            self._looking = asyncio.create_task(self._run(), name="ui feed")
        return listener

    def leave(self, listener: asyncio.Queue[bytes | None]) -> None:
        self._listeners.discard(listener)
        if not self._listeners and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    async def _run(self) -> None:
        while True:
            begun_s = self._clock.monotonic_s()
            try:
                event = b"data: %s\n\n" % await self._look()
            except Exception as error:
                log.error("the page has no picture", exc_info=error)
            else:
                for listener in self._listeners:
                    _hand_over(listener, event)
            await asyncio.sleep(max(0.0, PERIOD_S - (self._clock.monotonic_s() - begun_s)))

    def __repr__(self) -> str:
        return f"<Feed {len(self._listeners)} listen>"


class _Events(Response):
    """One listener's answer."""

    def __init__(self, feed: Feed) -> None:
        super().__init__()
        self._feed = feed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[LASTING] = True
        await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        if scope["method"] != "HEAD":
            await self._tell(receive, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _tell(self, receive: Receive, send: Send) -> None:
        listener = self._feed.join()
        gone = asyncio.create_task(_gone(receive))
        event: bytes | None = b"retry: %d\n\n" % _AGAIN_MS
        try:
            while event is not None and not gone.done():
                async with asyncio.timeout(_PATIENCE_S):
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                event = await _next(listener)
        except TimeoutError:
            return
        finally:
            gone.cancel()
            self._feed.leave(listener)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _next(listener: asyncio.Queue[bytes | None]) -> bytes | None:
    try:
        async with asyncio.timeout(_HEARTBEAT_S):
            return await listener.get()
    except TimeoutError:
        return b": still there\n\n"


def _hand_over(listener: asyncio.Queue[bytes | None], event: bytes | None) -> None:
    """In the place of what was not taken."""
    if listener.full():
        listener.get_nowait()
    listener.put_nowait(event)
