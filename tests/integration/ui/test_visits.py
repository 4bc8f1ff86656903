"""What the gateway asks other services for the page: in full, within bounds, and never for longer than a second."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import BaseTestServer, TestServer

from tally.gateway.ui import lookout
from tally.gateway.ui.lookout import Unreached, Visitor, items_of
from tally.local.processes import free_port

ITEMS = 2000


async def _items(request: web.Request) -> web.Response:
    return web.json_response({"items": [{"id": f"{number:08d}"} for number in range(ITEMS)]})


async def _endless(request: web.Request) -> web.StreamResponse:
    answer = web.StreamResponse()
    await answer.prepare(request)
    for _ in range(64):
        await answer.write(b" " * 65536)
    return answer


@pytest.fixture
async def other() -> AsyncIterator[BaseTestServer]:
    app = web.Application()
    app.router.add_get("/items", _items)
    app.router.add_get("/endless", _endless)
    async with TestServer(app) as server:
        yield server


async def test_an_answer_of_many_parts_is_read_to_its_end(other: BaseTestServer) -> None:
    async with Visitor() as visitor:
        answer = await visitor.ask("GET", str(other.make_url("/items")))
    assert len(items_of(answer) or ()) == ITEMS


async def test_an_answer_without_an_end_is_not(other: BaseTestServer) -> None:
    async with Visitor() as visitor:
        answer = await visitor.ask("GET", str(other.make_url("/endless")))
    assert len(answer.text) == lookout._ANSWER_MAX_BYTES
    assert items_of(answer) is None


async def test_nobody_is_told_from_silence() -> None:
    async with Visitor() as visitor:
        with pytest.raises(Unreached, match="it refuses connections"):
            await visitor.ask("GET", f"http://127.0.0.1:{free_port()}/")
