"""Connections that dawdle, idle, lie about their length or break off: theirs is the harm, and nobody else's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from urllib.parse import urlsplit

import pytest

from tests.integration.resilience.deployment import Answer, Deployment, at_once, median_s

IDLE = 300
SLOW = 60
CLIENTS, EACH = 8, 6

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def connection(url: str, first: bytes = b"") -> AsyncIterator[Connection]:
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        writer.write(first)
        await writer.drain()
        yield reader, writer
    finally:
        writer.close()


@asynccontextmanager
async def crowd(url: str, number: int, first: bytes = b"") -> AsyncIterator[list[Connection]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(connection(url, first)) for _ in range(number)]


@pytest.mark.parametrize(
    ("service", "idle"),
    [("gateway", IDLE), ("conference", IDLE), pytest.param("gateway", 10_000, marks=pytest.mark.chaos)],
)
async def test_idle_and_slow_connections_leave_the_others_unaffected(
    deployment: Deployment, service: str, idle: int
) -> None:
    event, authors = await deployment.event(), [await deployment.author() for _ in range(CLIENTS)]

    async def create(random: Random) -> Answer:
        return await deployment.create(event, random.choice(authors))

    before = await at_once(CLIENTS, EACH, create)
    url = deployment.stack.urls[service]
    head = b"POST /event HTTP/1.1\r\nHost: t\r\nX-Slow: "
    body = b"POST /event HTTP/1.1\r\nHost: t\r\nContent-Length: 500\r\n\r\n{"
    async with crowd(url, idle), crowd(url, SLOW, head) as slow, crowd(url, SLOW, body):
        for _, writer in slow:
            writer.write(b"a")
        during = await at_once(CLIENTS, EACH, create)
        assert (await deployment.ask(service, "GET", "/readyz", admin=True)).status == 200
    assert {answer.status for answer in before + during} <= {200, 201}
    assert median_s(during) <= 3 * median_s(before) + 0.05


@pytest.mark.parametrize("service", ["gateway", "author"])
async def test_two_lengths_of_one_body_are_a_bad_request_and_the_connection_is_closed(
    deployment: Deployment, service: str
) -> None:
    smuggled = (
        b"POST /author HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\nGET /author HTTP/1.1\r\nHost: t\r\n\r\n"
    )
    async with connection(deployment.stack.urls[service], smuggled) as (reader, _), asyncio.timeout(10):
        answers = await reader.read()
    assert answers.startswith(b"HTTP/1.1 400 ")
    assert answers.count(b"HTTP/1.1 ") == 1
    assert b"application/problem+json" in answers


async def test_a_body_that_is_cut_short_makes_nothing_and_harms_nobody(deployment: Deployment) -> None:
    name = "Cut Short"
    content = b'{"full_name": "%s"}' % name.encode()
    head = b"POST /author HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % (len(content) + 10)
    for _ in range(20):
        async with connection(deployment.stack.urls["author"], head + content):
            pass
    assert (await deployment.ask("author", "GET", "/readyz", admin=True)).status == 200
    listed = (await deployment.ask("author", "GET", "/author?limit=500")).body["items"]
    assert name not in [item["full_name"] for item in listed]


@pytest.mark.parametrize(
    "nonsense", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"HELO\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"]
)
async def test_what_is_not_http_is_a_bad_request_and_closed(deployment: Deployment, nonsense: bytes) -> None:
    async with connection(deployment.stack.urls["gateway"], nonsense) as (reader, _), asyncio.timeout(10):
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
