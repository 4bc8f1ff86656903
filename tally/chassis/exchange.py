"""One request and its answer over a connection that is kept: HTTP/1.1 to one peer, no more of it than services speak.

    connection = await connections.acquire(within_s)                    # NotConnected: not one byte was sent
    answer = await connections.exchange(connection, request, within_s)  # Broken: anything may have happened

aiohttp's client knows all of HTTP, and takes three times as long for what is sent here
(docs/decisions/0010). httptools, uvicorn's parser, reads the answers; aiohappyeyeballs connects.

Assumes one event loop, and a caller that hands in whole requests with Content-Length. Nothing is pipelined, no
redirect followed, no cookie kept, nothing unpacked. An answer whose end is told only by the connection's end is
`cut-short`: nobody could tell it from half of one.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Final

import aiohappyeyeballs
import httptools

# A connection that idles longer is closed, not used again. Less than the server's 75 s (`connection.py`), so that a
# request seldom meets a connection that is just being closed.
_KEEP_ALIVE_S: Final = 60.0
# How long an address is trusted: a pod that moved is found again after this.
_ADDRESS_S: Final = 5.0
# The other family of addresses is tried beside the first one after this (RFC 8305, 5).
_HAPPY_EYEBALLS_S: Final = 0.25
_INTERIM_MAX: Final = 199
_HEAD_MAX_BYTES: Final = 64 * 1024


class NotConnected(Exception):
    """There was no connection to hand the request to: `refused`, `dns`, `tls` or `no-connection` (in time)."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Broken(Exception):
    """Handed over, and no whole answer came: `timeout`, `reset`, `cut-short`, `not-http` or `too-large`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Answer:
    """What came back."""

    __slots__ = ("body", "content_type", "retry_after", "status")

    def __init__(self, status: int) -> None:
        self.status = status
        self.content_type = ""
        self.retry_after: str | None = None
        self.body = b""


class Connection(asyncio.Protocol):
    """One connection, and the one exchange that it is in the middle of."""

    def __init__(self, owner: Connections, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: Answer | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []
        self._size = 0
        self.idle_since_s = 0.0

    @property
    def closed(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def send(self, request: bytes) -> asyncio.Future[Answer]:
        """Hands the request over; the future has the answer, or Broken."""
        assert self._transport is not None
        assert self._answered is None, "one exchange at a time"
        self._answer, self._headers, self._parts, self._size = None, [], [], 0
        self._answered = self._loop.create_future()
        self._transport.write(request)
        return self._answered

    def abort(self) -> None:
        """Closed at once: what may still come belongs to nobody."""
        self._answered = None
        if self._transport is not None:
            self._transport.abort()

    # -- the transport's calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answered is None:
            self.abort()  # nobody asked
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail("not-http")
        if self._answer is None:
            self._count(len(data), _HEAD_MAX_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("reset" if self._answer is None else "cut-short")
        self._owner.lost(self)

    def _fail(self, reason: str) -> None:
        answered = self._answered
        self.abort()
        if answered is not None and not answered.done():
            answered.set_exception(Broken(reason))

    # -- the parser's calls

    def on_message_begin(self) -> None:
        if self._answered is None:
            self.abort()  # behind the answer, in one piece with it: the next request would get it for its own

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        headers, self._headers, self._size = self._headers, [], 0
        if status <= _INTERIM_MAX:
            return
        self._answer = answer = Answer(status)
        for name, value in headers:
            match name.lower():
                case b"content-type":
                    answer.content_type = value.decode("latin-1").partition(";")[0].strip().lower()
                case b"retry-after":
                    answer.retry_after = value.decode("latin-1")
                case b"content-length" if int(value) > self._owner.body_max_bytes:
                    self._fail("too-large")

    def on_body(self, part: bytes) -> None:
        self._parts.append(part)
        self._count(len(part), self._owner.body_max_bytes)

    def _count(self, size: int, most: int) -> None:
        self._size += size
        if self._size > most:
            self._fail("too-large")

    def on_message_complete(self) -> None:
        answer, answered = self._answer, self._answered
        if answer is None or answered is None:
            return  # "100 Continue" and the like: the answer is still to come
        answer.body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._answered = None
        if not self._parser.should_keep_alive():
            self.abort()
        if not answered.done():
            answered.set_result(answer)


class Connections:
    """The connections to one address: at most `most` of them, each in one exchange at a time."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        most: int = 32,
        body_max_bytes: int = 16 * 1024 * 1024,
    ) -> None:
        self._host = host
        self._port = port
        self._tls = tls
        self._most = most
        self.body_max_bytes = body_max_bytes
        self._connecting = 0
        self._made: set[Connection] = set()
        self._idle: list[Connection] = []
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()
        self._addresses: tuple[float, list[aiohappyeyeballs.AddrInfoType]] = (float("-inf"), [])
        self._resolving: asyncio.Task[list[aiohappyeyeballs.AddrInfoType]] | None = None

    @property
    def in_use(self) -> int:
        """How many are in the middle of an exchange, or being made."""
        return self._connecting + len(self._made) - len(self._idle)

    async def acquire(self, within_s: float) -> Connection:
        """A connection that was idle, or a new one; who has it calls `exchange`. NotConnected after `within_s`."""
        connection = self._waiting_one()
        if connection is not None:
            return connection
        try:
            async with asyncio.timeout(within_s):
                return await self._made_or_returned()
        except TimeoutError:
            raise NotConnected("no-connection") from None
        except socket.gaierror:
            raise NotConnected("dns") from None
        except ssl.SSLError:
            raise NotConnected("tls") from None
        except OSError:
            raise NotConnected("refused") from None

    async def exchange(self, connection: Connection, request: bytes, within_s: float) -> Answer:
        """The answer to a request; the connection is given back. Broken where there is none after `within_s`."""
        loop = asyncio.get_running_loop()
        answered = connection.send(request)
        timer = loop.call_later(within_s, _time_out, answered)
        try:
            answer = await answered
        except BaseException:
            connection.abort()
            raise
        finally:
            timer.cancel()
        self._give_back(connection, loop.time())
        return answer

    def close(self) -> None:
        """Closes what waits; what is in an exchange ends by itself."""
        for connection in self._idle:
            connection.abort()

    def lost(self, connection: Connection) -> None:
        """A connection's end; somebody else may make one."""
        if connection in self._made:
            self._made.remove(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._pass_on(None)

    def _waiting_one(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if connection.closed:
                continue
            if asyncio.get_running_loop().time() - connection.idle_since_s <= _KEEP_ALIVE_S:
                return connection
            connection.abort()
        return None

    async def _made_or_returned(self) -> Connection:
        while self._connecting + len(self._made) >= self._most:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self._return(waiter.result())
                raise
            if connection is not None:
                return connection
        self._connecting += 1
        try:
            connection = await self._connected()
        except BaseException:
            self._pass_on(None)
            raise
        finally:
            self._connecting -= 1
        self._made.add(connection)
        return connection

    async def _connected(self) -> Connection:
        loop = asyncio.get_running_loop()
        addresses = await self._resolved()
        reached = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_HAPPY_EYEBALLS_S)
        reached.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection = Connection(self, loop)
        hostname = self._host if self._tls else None
        try:
            await loop.create_connection(lambda: connection, sock=reached, ssl=self._tls, server_hostname=hostname)
        except BaseException:
            reached.close()
            raise
        if connection.closed:
            raise ConnectionResetError("closed before anything was sent")
        return connection

    async def _resolved(self) -> list[aiohappyeyeballs.AddrInfoType]:
        """Where the peer is. One look-up serves all who ask meanwhile: each takes a thread, and there are few."""
        loop = asyncio.get_running_loop()
        at_s, addresses = self._addresses
        if addresses and loop.time() - at_s <= _ADDRESS_S:
            return addresses
        if self._resolving is None:
            self._resolving = loop.create_task(self._looked_up())
            self._resolving.add_done_callback(self._looked)
        return await asyncio.shield(self._resolving)

    async def _looked_up(self) -> list[aiohappyeyeballs.AddrInfoType]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        self._addresses = (loop.time(), list(found))
        return self._addresses[1]

    def _looked(self, task: asyncio.Task[list[aiohappyeyeballs.AddrInfoType]]) -> None:
        self._resolving = None
        if not task.cancelled():
            task.exception()  # whoever still waits is told; if nobody does, nobody need be

    def _give_back(self, connection: Connection, now_s: float) -> None:
        if not connection.closed:
            connection.idle_since_s = now_s
            self._return(connection)

    def _return(self, connection: Connection | None) -> None:
        if not self._pass_on(connection) and connection is not None:
            self._idle.append(connection)

    def _pass_on(self, connection: Connection | None) -> bool:
        """To the first who waits: a connection, or leave to make one."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    def __repr__(self) -> str:
        return f"<Connections to {self._host}:{self._port} open={len(self._made)} idle={len(self._idle)}>"


def _time_out(answered: asyncio.Future[Answer]) -> None:
    if not answered.done():
        answered.set_exception(Broken("timeout"))
