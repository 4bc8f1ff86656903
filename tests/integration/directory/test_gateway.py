"""What the gateway shows of operations by way of the directory, and what it does without it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from services.attendance import ATTENDANCE
from services.gateway.__main__ import Settings
from services.gateway.__main__ import build as build_gateway
from tally.chassis.app import running
from tally.chassis.clock import SystemClock
from tally.chassis.signals import Signals
from tally.gateway.operations import deferred_id
from tally.gateway.report import Reporter
from tally.local.ask import Answer, ask
from tally.local.processes import free_port
from tally.messaging.stream import Stream
from tests.integration.directory.running import Running, eventually
from tests.integration.directory.telling import Telling
from tests.integration.directory.test_operations import event_of, new_operation, reported
from tests.support.broker import Broker

NOBODY = f"http://127.0.0.1:{free_port()}"


class Front:
    """A gateway whose owners are away, before a directory that may be there."""

    def __init__(self, url: str, here: Running) -> None:
        self.url = url
        self.directory = here

    async def get(self, path: str) -> Answer:
        return await asyncio.to_thread(ask, "GET", self.url + path)


def settings(directory_url: str, broker: Broker) -> Settings:
    return Settings(
        port=0,
        token_check="off",
        author_url=NOBODY,
        conference_url=NOBODY,
        directory_url=directory_url,
        stream_url=broker.url,
    )


@pytest.fixture
async def front(here: Running, broker: Broker) -> AsyncIterator[Front]:
    async with running(build_gateway(settings(here.url, broker), Signals("gateway"))) as addresses:
        yield Front(addresses.url, here)


async def test_an_operation_comes_with_its_history(front: Front) -> None:
    telling, op = Telling(), new_operation()
    telling.report(reported(op, "unknown", reason="timeout"))
    await front.directory.told(telling.events)
    told = (await front.get(f"/operation/{op}")).body
    assert [entry["state"] for entry in told["history"]] == ["requested", "unknown"]


async def test_a_cascade_is_an_operation_of_the_gateway_too(front: Front) -> None:
    telling = Telling()
    deleted = telling.deleted("author", telling.author("Ada"))
    await front.directory.told(telling.events)
    assert (await front.get(f"/operation/{deleted.id}")).body["state"] == "completed"
    unknown = await front.get(f"/operation/{uuid4()}")
    assert (unknown.status, unknown.body["code"]) == (404, "operation-not-found")


async def test_stuck_work_is_passed_through_with_its_pages(front: Front) -> None:
    telling = Telling()
    telling.report(*(reported(new_operation(), "unknown") for _ in range(2)))
    await front.directory.told(telling.events)
    page = await front.get("/operation?state=unknown&limit=1")
    assert len(page.body["items"]) == 1
    assert page.headers["link"] == f'</operation?state=unknown&limit=1&after={page.body["next"]}>; rel="next"'
    assert (await front.get("/operation?state=lost")).body["code"] == "invalid-query"


async def test_an_operation_is_heard_through_the_gateway(front: Front) -> None:
    telling, id = Telling(), deferred_id(SystemClock().now_ms(), uuid4().int)
    telling.operation("deferred", id, author=uuid4(), event=uuid4(), requested_at="2026-03-01T12:00:00Z")
    await front.directory.told(telling.events)
    front.directory.url, url = front.url, front.directory.url
    async with front.directory.listening(f"/operation/{id}/events") as stream:
        assert [(await event_of(stream))[1] for _ in range(2)] == ["requested", "deferred"]
        telling.operation("rejected", id, code="author-not-found")
        await front.directory.tell(telling.events[-1:])
        assert (await event_of(stream))[1] == "rejected"
        assert await stream.read() == b""
    front.directory.url = url


async def test_without_the_directory_only_what_it_alone_knows_is_missing(front: Front) -> None:
    await front.directory.stop()
    op = new_operation()
    told = await front.get(f"/operation/{op}")
    assert (told.status, told.body["state"], "history" in told.body) == (200, "unknown", False)
    for path in ("/operation", f"/operation/{op}/events"):
        answer = await front.get(path)
        assert (answer.status, answer.body["code"], answer.body["service"]) == (503, "service-unavailable", "directory")


@pytest.mark.parametrize("nonsense", [b"", b"[]", b'{"items": [], "next": 5}', b"\xff"])
async def test_a_directory_that_answers_nonsense_is_as_good_as_none(broker: Broker, nonsense: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=nonsense, content_type="application/json")

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    async with TestServer(app) as directory:
        chosen = settings(str(directory.make_url("")), broker)
        async with running(build_gateway(chosen, Signals("gateway"))) as addresses:
            page = await asyncio.to_thread(ask, "GET", f"{addresses.url}/operation")
            one = await asyncio.to_thread(ask, "GET", f"{addresses.url}/operation/{new_operation()}")
    assert (page.status, page.body["code"], page.body["service"]) == (503, "service-unavailable", "directory")
    assert (one.status, one.body["state"], "history" in one.body) == (200, "unknown", False)


async def test_what_the_gateway_reports_is_in_the_log(here: Running, stream: Stream) -> None:
    signals = Signals("gateway")
    reporter = Reporter(stream, ATTENDANCE, "gateway", signals, SystemClock())
    ops = [new_operation() for _ in range(3)]
    for op in ops:
        reporter.note(op, "refused", uuid4(), uuid4(), "full")
    await reporter.run_once()
    await here.settled()
    assert {one["id"] for one in await here.items("/operation?state=refused")} == {str(op) for op in ops}
    assert signals.operation_reports_total("sent")._value.get() == 3


async def test_reports_are_dropped_and_counted_while_the_stream_is_away(broker: Broker) -> None:
    signals = Signals("gateway")
    broker.stop()
    async with Stream(broker.url, "test", Signals("test")) as stream:
        reporter = Reporter(stream, ATTENDANCE, "gateway", signals, SystemClock())
        reporter.note(new_operation(), "recorded", uuid4(), uuid4())
        await reporter.run_once()

        async def dropped() -> bool:
            return bool(signals.operation_reports_total("dropped")._value.get() == 1)

        await eventually(dropped, "it is dropped")
