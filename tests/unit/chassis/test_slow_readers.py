"""Clients that take their answers slowly, or not at all: they hold nothing up but themselves, and not for ever.

On both event loops: the services run on uvloop, and what a transport tells of its buffers is the loop's.
"""

import asyncio
import inspect
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvloop
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tally.chassis import connection
from tally.chassis.app import Service, running
from tally.chassis.http import LASTING, Route, encoded_response, json_response
from tally.chassis.signals import Signals
from tests.unit.chassis.test_app import Settings, answered, ask, connected
from tests.unit.chassis.test_client import certificate

# More than the kernels of both ends keep for a client that does not read.
PAGE = b'"' + b"x" * 16_000_000 + b'"'
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"


def on_both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    def run(loop: Callable[[], asyncio.AbstractEventLoop], **given: Any) -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(test(**given))

    own = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    takes = inspect.signature(test)
    run.__signature__ = takes.replace(parameters=[own, *takes.parameters.values()])  # type: ignore[attr-defined]
    run.__name__ = test.__name__
    both: Callable[..., Callable[..., None]] = pytest.mark.parametrize(
        "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
    )
    return both(run)


class Trial:
    """Its handlers, and what they saw."""

    def __init__(self, signals: Signals) -> None:
        self.signals = signals
        self.url = ""
        self.pages = 0
        self.given = asyncio.Event()
        """A page was given out, or a part of what goes on."""
        self.ended = asyncio.Event()
        """What goes on has ended."""

    async def page(self, request: Request) -> Response:
        self.pages += 1
        asyncio.get_running_loop().call_soon(self.given.set)
        return encoded_response(PAGE)

    async def endless(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b": still there\n\n" * 1000
                    self.given.set()
                    await asyncio.sleep(0)
            finally:
                self.ended.set()

        request.scope[LASTING] = True
        return StreamingResponse(parts(), media_type="text/event-stream")

    async def small(self, request: Request) -> Response:
        return json_response({"bytes": len(await request.body())})

    async def slow(self, request: Request) -> Response:
        await asyncio.sleep(1.2)  # as long as it takes until it is looked for who is overdue
        return json_response({})

    async def in_flight(self, wanted: int) -> None:
        """Return when so many places of the limiter are taken."""
        async with asyncio.timeout(5):
            while self.signals.registry.get_sample_value("tally_requests_in_flight") != wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


@asynccontextmanager
async def up(settings: Settings | None = None) -> AsyncIterator[Trial]:
    signals = Signals("trial")
    trial = Trial(signals)
    routes = [
        Route("GET", "/page", trial.page, "A large answer"),
        Route("GET", "/endless", trial.endless, "One that goes on"),
        Route("POST", "/small", trial.small, "A small one"),
        Route("GET", "/small", trial.small, "A small one"),
        Route("GET", "/slow", trial.slow, "One that takes its time"),
    ]
    service = Service(name="trial", settings=settings or Settings(), signals=signals, routes=routes)
    async with running(service) as addresses:
        trial.url = addresses.url
        yield trial


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> asyncio.Semaphore:
    """Released for each connection that the service has no more."""
    count = asyncio.Semaphore(0)
    before: Callable[..., None] = connection.HttpProtocol.connection_lost

    def connection_lost(self: connection.HttpProtocol, exc: Exception | None) -> None:
        before(self, exc)
        count.release()

    monkeypatch.setattr(connection.HttpProtocol, "connection_lost", connection_lost)
    return count


@on_both_loops
async def test_who_does_not_read_keeps_no_place_of_the_limiter() -> None:
    async with up() as trial:
        writers = []
        for _ in range(3):
            _, writer = await connected(trial.url)
            writer.write(GET % b"/page" * 40)
            writers.append(writer)
            await trial.given.wait()
            trial.given.clear()
        await trial.in_flight(0)
        assert (await ask(trial.url, "/small")).status == 200
        assert trial.pages == 3  # what came behind an answer that is not taken is not begun
        for writer in writers:
            writer.close()


@on_both_loops
async def test_what_was_sent_behind_an_answer_that_is_taken_late_is_answered_in_its_order() -> None:
    async with up() as trial:
        reader, writer = await connected(trial.url)
        writer.write(GET % b"/page" + GET % b"/small" + GET % b"/page")
        await trial.given.wait()
        await trial.in_flight(0)
        writer.write(GET % b"/small")
        async with asyncio.timeout(8):
            bodies = [(await answered(reader)).body for _ in range(4)]
            assert bodies == [PAGE, b'{"bytes":0}', PAGE, b'{"bytes":0}']
            # And when the answer has been taken, the connection is as it was.
            writer.write(GET % b"/small")
            assert (await answered(reader)).status == 200
        writer.close()


@on_both_loops
async def test_a_request_comes_while_an_answer_is_not_taken_and_waits_for_that() -> None:
    async with up() as trial:
        reader, writer = await connected(trial.url)
        writer.write(GET % b"/page")
        await trial.given.wait()
        await trial.in_flight(0)
        writer.write(GET % b"/page")
        assert (await ask(trial.url, "/small")).status == 200
        assert trial.pages == 1
        async with asyncio.timeout(8):
            assert [(await answered(reader)).body for _ in range(2)] == [PAGE, PAGE]
        writer.close()


@pytest.mark.parametrize(
    ("asked", "tls"),
    [
        (GET % b"/page", False),
        (GET % b"/page" * 3, True),
        (b"GET /page HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", False),
        (GET % b"/endless", True),
        (GET % b"/endless" + GET % b"/small", False),
    ],
    ids=["page", "pages with tls", "last page", "endless with tls", "endless and one behind"],
)
@on_both_loops
async def test_who_takes_nothing_of_an_answer_is_hung_up_on(
    monkeypatch: pytest.MonkeyPatch, lost: asyncio.Semaphore, tmp_path: Path, asked: bytes, tls: bool
) -> None:
    monkeypatch.setattr(connection, "_ANSWER_S", 0.5)
    settings, client = Settings(), None
    if tls:
        certificate_file, key_file = certificate(tmp_path)
        settings = Settings(tls_cert_file=str(certificate_file), tls_key_file=str(key_file))
        client = ssl.create_default_context(cafile=str(certificate_file))
    async with up(settings) as trial:
        _, writer = await connected(trial.url, client)
        writer.write(asked)
        await trial.given.wait()
        async with asyncio.timeout(5):
            await lost.acquire()
            if b"endless" in asked:
                await trial.ended.wait()
        await trial.in_flight(0)
        writer.transport.abort()
        assert (await ask(trial.url, "/small", tls=client)).status == 200


async def narrowly_connected(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """With a small buffer of the client's kernel: a large one tells only of megabytes that were taken."""
    address = urlsplit(url)
    narrow = socket.socket()
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    narrow.setblocking(False)
    await asyncio.get_running_loop().sock_connect(narrow, (address.hostname, address.port))
    return await asyncio.open_connection(sock=narrow)


@on_both_loops
async def test_who_takes_an_answer_slowly_gets_all_of_it(
    monkeypatch: pytest.MonkeyPatch, lost: asyncio.Semaphore
) -> None:
    async with up() as trial:
        monkeypatch.setattr(connection, "_ANSWER_S", 1.5)
        monkeypatch.setattr(connection, "_KEEP_ALIVE_S", 1.5)
        reader, writer = await narrowly_connected(trial.url)
        writer.write(GET % b"/page")
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        for _ in range(45):
            body += await reader.readexactly(20_000)
            await asyncio.sleep(0.1)
        assert lost.locked()  # for three times as long as it may take nothing
        async with asyncio.timeout(5):
            body += await reader.readexactly(len(PAGE) - len(body))
            assert (head[:15], body) == (b"HTTP/1.1 200 OK", PAGE)
            writer.write(GET % b"/small")
            assert (await answered(reader)).status == 200
        writer.close()


@on_both_loops
async def test_what_is_not_read_from_a_client_meanwhile_is_not_held_against_it(
    monkeypatch: pytest.MonkeyPatch, lost: asyncio.Semaphore
) -> None:
    async with up() as trial:
        monkeypatch.setattr(connection, "_BODY_S", 0.5)
        reader, writer = await connected(trial.url)
        writer.write(GET % b"/page" + b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        await trial.given.wait()
        await asyncio.sleep(2.2)  # twice as often as it is looked for who is overdue
        assert lost.locked()
        async with asyncio.timeout(5):
            assert (await answered(reader)).body == PAGE
            writer.write(b"defghi")
            assert (await answered(reader)).json == {"bytes": 9}
        writer.close()


@on_both_loops
async def test_who_sends_faster_than_it_is_answered_is_not_read_from_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    before: Callable[..., None] = connection.HttpProtocol.on_headers_complete

    def on_headers_complete(self: connection.HttpProtocol) -> None:
        before(self)
        waiting.append(len(self.pipeline))

    monkeypatch.setattr(connection.HttpProtocol, "on_headers_complete", on_headers_complete)
    request = b"POST /small HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 8_000 + b"\r\nContent-Length: 2\r\n\r\n{}"
    async with up() as trial:
        reader, writer = await connected(trial.url)
        writer.write(request * 1000)
        async with asyncio.timeout(20):
            assert {(await answered(reader)).status for _ in range(1000)} == {200}
        assert max(waiting) < 100  # a read brings 256 KiB at most
        writer.close()


@on_both_loops
async def test_who_waits_for_many_answers_is_not_overdue_with_what_it_cannot_send(
    monkeypatch: pytest.MonkeyPatch, lost: asyncio.Semaphore
) -> None:
    monkeypatch.setattr(connection, "_HEAD_S", 0.3)
    async with up() as trial:
        reader, writer = await connected(trial.url)
        writer.write(GET % b"/slow" * 3 + b"GET /small HTTP/1.1\r\n")
        async with asyncio.timeout(8):
            for _ in range(2):
                assert (await answered(reader)).status == 200
            writer.write(b"Host: x\r\n\r\n")
            assert [(await answered(reader)).status for _ in range(2)] == [200, 200]
        assert lost.locked()
        writer.close()
