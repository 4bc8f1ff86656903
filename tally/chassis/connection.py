"""One connection of a client: uvicorn's, with bounds on what may come in, and a shorter way out.

What is measured and mended, against uvicorn 0.54:

* A request's head is bounded in size, number of headers, and the time it may take to arrive; so is the body's time.
* A request is not begun before the client has taken the answer before it: its handler would wait for the client, and
  whatever it holds with it. A client that takes nothing is hung up on.
* A client that sends requests faster than they are answered is not read from until those that came are under way.
  uvicorn reads on with each answer, and as much as it gets: a single connection takes all of the memory.
* Every stock Java client offers HTTP/2 in clear (`Upgrade: h2c`) with each request. We may ignore that (RFC 9110,
  7.8), but httptools stops after such a head, so that uvicorn loses the body (Kludex/uvicorn#2722). Here another
  parser goes on with the body.
* Head and body of an answer leave in one write. Two cost another system call, and another wake-up of the client.
* An idle connection is closed by the server's tick, not by a timer that each request sets and cancels.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
import urllib.parse
from collections.abc import Awaitable, Collection, Generator, Sequence
from typing import Any, Final

import httptools
import msgspec
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from tally.chassis import problems
from tally.chassis.problems import Problem

# A request's line and headers: in bytes, in number, and until they have come in full. Then its body.
_HEAD_MAX_BYTES: Final = 32 * 1024
_HEADERS_MAX: Final = 100
_HEAD_S: Final = 10.0
_BODY_S: Final = 30.0
# How long a client may take nothing of its answer.
_ANSWER_S: Final = 30.0
_FRAMING: Final = (b"content-length", b"transfer-encoding")
# More than the internal client keeps a connection idle (`client.py`), and than load balancers usually do (60 s).
_KEEP_ALIVE_S: Final = 75.0
# Answers with these headers go uvicorn's way.
_HOP_BY_HOP: Final = frozenset((b"connection", b"transfer-encoding"))


class _Done:
    """What there is to await when nothing is left to wait for."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return iter(())  # type: ignore[return-value]


_DONE: Final = _Done()


class Cycle(RequestResponseCycle):
    """One request and its answer. An answer of known length in two messages, as ours are, is written at once."""

    _head: bytes | None = None
    """The answer's head, while it waits for the body."""
    _length = 0

    def send(self, message: Any) -> Awaitable[None]:  # type: ignore[override]
        if self.flow.write_paused or self.disconnected:
            return self._flush_and_send(message)
        if self._head is not None:
            body = message.get("body", b"")
            if message.get("more_body", False) or len(body) != self._length:
                return self._flush_and_send(message)
            self.transport.write(self._head if self.scope["method"] == "HEAD" else self._head + body)
            self._head = None
            self._completed()
            return _DONE
        if self.response_started or not self.keep_alive or message["type"] != "http.response.start":
            return super().send(message)
        self._head = self._encoded(message["status"], message["headers"])
        if self._head is None:
            return super().send(message)
        self.response_started = True
        self.waiting_for_100_continue = False
        return _DONE

    def _encoded(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
        """The head; None where it has something that only uvicorn's own way deals with."""
        length = None
        parts = [STATUS_LINE[status]]
        for name, value in self.default_headers:
            parts += (name, b": ", value, b"\r\n")
        for name, value in headers:
            if name == b"content-length":
                length = int(value)
            elif name in _HOP_BY_HOP:
                return None
            parts += (name, b": ", value, b"\r\n")
        parts.append(b"\r\n")
        head = b"".join(parts)
        # A header with a line break in it would smuggle another one.
        if length is None or head.count(b"\n") != len(self.default_headers) + len(headers) + 2:
            return None
        self._length = length
        return head

    def _completed(self) -> None:
        self.response_complete = True
        self.message_event.set()
        # It may have been told meanwhile that the server stops.
        if not self.keep_alive:
            self.transport.close()
        self.on_response()

    async def _flush_and_send(self, message: Any) -> None:
        """uvicorn's own way from here on; what was held back goes first."""
        if self._head is not None:
            self.transport.write(self._head)
            self._head, self.chunked_encoding, self.expected_content_length = None, False, self._length
        await super().send(message)


class _Flow(FlowControl):
    """Reads nothing while requests wait for their turn, whoever asks for it: all of the one under way has come."""

    def __init__(self, transport: asyncio.Transport, waiting: Collection[object]) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()


class HttpProtocol(HttpToolsProtocol):
    """A connection, and the requests on it one after the other."""

    _since_s = 0.0
    """Since when the client has had to do what it is to do next."""
    _head_bytes = 0
    _awaited = True
    """A head is being waited for: the rest of one that has begun, or the first one."""
    _idle = False
    """An answer has been given, and no other request has begun to come. (An empty line begins none.)"""
    _held = False
    """An answer has been given, and the client is to take it before another request is begun."""
    _ahead: RequestResponseCycle | None = None
    """The request that others were sent behind. (`cycle` is the last one that has come.)"""
    _left: tuple[int, int] | None = None
    """How much the client had still to take when that changed last."""
    _lost = False
    """What came last could not be parsed: nothing more is read."""
    _replaying = False
    """A parser is being told again what the one before it had seen: nobody else needs to hear it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._since_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        if self._lost:
            return
        try:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as stop:
                self._go_on_without_upgrade(data[stop.args[0] :])
        except httptools.HttpParserError:
            self._lose()

    def _lose(self) -> None:
        """Nobody knows any more where a request begins. Those that came in full before are carried out: each gets its
        own answer, and no refusal."""
        self._lost = True
        if self.pipeline and self.cycle.more_body:  # it has not begun, and its body is what cannot be read
            self.pipeline.popleft()
            self.cycle = self.pipeline[0][0] if self.pipeline else self._ahead  # type: ignore[assignment]
        if self.cycle is None or self.cycle.response_complete or self.cycle.more_body:
            self.send_400_response("")
        else:
            self.cycle.keep_alive = False

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        framing = [(name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's first one
        self._replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(b"%s: %s\r\n" % pair for pair in framing))
        self._replaying = False
        if rest:
            self.data_received(rest)

    def on_message_begin(self) -> None:
        if not self._replaying:
            super().on_message_begin()
            self._since_s, self._head_bytes, self._awaited, self._idle = self.loop.time(), 0, True, False

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._replaying:
            self._count(len(name) + len(value))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._replaying:
            return
        self._awaited = False
        self._complete_scope()
        existing = self.cycle
        self.cycle = cycle = Cycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=self.scope["http_version"] != "1.0" and self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        if existing is None or (existing.response_complete and not self._held):
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            if not self.pipeline:
                self._ahead = existing
            self.pipeline.appendleft((cycle, self.app))

    def _complete_scope(self) -> None:
        url = httptools.parse_url(self.url)
        path = url.path.decode("ascii")
        self.scope["method"] = self.parser.get_method().decode("ascii")
        self.scope["http_version"] = self.parser.get_http_version()
        self.scope["path"] = urllib.parse.unquote(path) if "%" in path else path
        self.scope["raw_path"] = url.path
        self.scope["query_string"] = url.query or b""

    def on_message_complete(self) -> None:
        # After a head that offers an upgrade, httptools takes the message for complete.
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.server_state.total_requests += 1
        self._go_on()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._held:
            self._go_on()

    def _go_on(self) -> None:
        if self.transport.is_closing():
            return
        self._held = self.flow.write_paused
        if self._held:
            return
        following = self.pipeline.pop() if self.pipeline else None
        self.flow.resume_reading()
        if following:
            self._ahead, app = following
            self._start_asgi_task(self._ahead, app)
        else:
            self._idle, self._since_s = True, self.loop.time()

    def connection_lost(self, exc: Exception | None) -> None:
        # uvicorn tells the last request only, and the one that is under way would go on for nobody.
        if self._ahead is not None and not self._ahead.response_complete:
            self._ahead.disconnected = True
            self._ahead.message_event.set()
        super().connection_lost(exc)

    def is_overdue(self, now_s: float) -> bool:
        """Whether the client has had its time: for taking an answer, for a head, a body, or another request.

        The first goes before the others: who takes an answer slowly is not read from, and has their time afterwards. So
        has who waits for answers.
        """
        unsent = self.transport.get_write_buffer_size()
        if unsent:
            left = (unsent, self._unacknowledged())
            if left != self._left:
                self._left, self._since_s = left, now_s
            return now_s - self._since_s > _ANSWER_S
        self._left = None
        if self.pipeline:
            self._since_s = now_s
            return False
        if self._idle:
            return now_s - self._since_s > _KEEP_ALIVE_S
        if self._awaited:
            return now_s - self._since_s > _HEAD_S
        cycle = self.cycle
        return cycle is not None and cycle.more_body and now_s - self._since_s > _BODY_S

    def _unacknowledged(self) -> int:
        """The bytes that the kernel keeps for the client. It takes more of ours only when a third of its own is gone,
        which may be a megabyte: whether a slow client takes anything shows here."""
        with contextlib.suppress(OSError):  # not every system tells
            given = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
            return int.from_bytes(given, sys.byteorder)
        return 0

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_MAX_BYTES or len(self.headers) >= _HEADERS_MAX:
            raise ValueError("the head of the request is too large")

    def send_400_response(self, msg: str) -> None:
        """A problem, and the connection closed."""
        refusal = Problem("bad-request", "This is not a request in HTTP/1.1, or its head is too large.")
        content = msgspec.json.encode(problems.body(refusal, "/"))
        self.transport.write(
            STATUS_LINE[refusal.status]
            + b"content-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % (problems.CONTENT_TYPE.encode(), len(content))
            + content
        )
        self.transport.close()
