"""The conference service's address leads nowhere, or to somebody else: what is told is true, and nothing is left.

A gateway of the test's own, in its process, beside the stack's: only its address of the conference service is wrong.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

import pytest

from services.gateway.__main__ import Settings, build
from tally.chassis.app import running
from tally.chassis.settings import load
from tally.chassis.signals import Signals
from tests.integration.resilience.deployment import Answer, Deployment

DEADLINE_S, GRACE_S = 2.0, 0.5


@asynccontextmanager
async def gateway_to(deployment: Deployment, conference_url: str) -> AsyncIterator[str]:
    """The address of a gateway that looks for the conference service there."""
    environ = {
        **deployment.stack.environment("gateway"),
        "TALLY_PORT": "0",
        "TALLY_ADMIN_PORT": "0",
        "TALLY_CONFERENCE_URL": conference_url,
    }
    settings = load(Settings, environ)
    async with running(build(settings, Signals("gateway", environ={}))) as addresses:
        yield addresses.url


@asynccontextmanager
async def unknown_name() -> AsyncIterator[str]:
    yield "http://conference.invalid:8080"  # RFC 2606: a name that never exists


@asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    """Where it was yesterday: nobody listens there."""
    with _bound() as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@asynccontextmanager
async def silent_host() -> AsyncIterator[str]:
    """Takes no connection, and refuses none: a host behind which packets disappear."""
    with _bound() as listener:
        listener.listen(0)
        port = listener.getsockname()[1]
        crowd = [socket.socket() for _ in range(4)]
        for one in crowd:  # fills the queue of connections that nobody accepts
            one.setblocking(False)
            one.connect_ex(("127.0.0.1", port))
        yield f"http://127.0.0.1:{port}"
        for one in crowd:
            one.close()


@asynccontextmanager
async def stranger() -> AsyncIterator[str]:
    """Somebody else got the address: speaks HTTP, and knows nothing of us."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nwelcome")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@contextmanager
def _bound() -> Iterator[socket.socket]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        yield listener


@pytest.mark.parametrize(
    ("place", "codes"),
    [
        (unknown_name, {"service-unavailable"}),
        (closed_port, {"service-unavailable"}),
        (silent_host, {"outcome-unknown", "service-unavailable"}),
        (stranger, {"outcome-unknown", "service-unavailable"}),
    ],
)
async def test_a_wrong_address_is_told_in_time_and_leaves_nothing_behind(
    deployment: Deployment, place: Callable[[], AbstractAsyncContextManager[str]], codes: set[str]
) -> None:
    event, author = await deployment.event(), await deployment.author()
    async with place() as url, gateway_to(deployment, url) as gateway:

        async def ask(method: str, path: str) -> Answer:
            began_s = time.monotonic()
            async with deployment.session.request(method, gateway + path) as answer:
                body = await answer.json(content_type=None)
                return Answer(answer.status, answer.headers, body, time.monotonic() - began_s)

        answers = [await ask("PUT", f"/event/{event}/attendance/{author}") for _ in range(8)]
        read = await ask("GET", f"/author/{author}/attendance")
    assert {answer.code for answer in answers} <= codes
    assert max(answer.took_s for answer in [*answers, read]) <= DEADLINE_S + GRACE_S
    assert (read.status, read.body["complete"]) == (200, False)
    assert await deployment.agreed("author", author) == set()
    for unknown in (answer.body["operation"] for answer in answers if answer.code == "outcome-unknown"):
        assert await deployment.operation(unknown) == "refused"
