"""The feed: a picture a second while somebody looks, for a bounded number of listeners, and nothing otherwise."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tally.chassis.clock import SystemClock
from tally.gateway.ui.feed import LISTENERS_MAX, Feed
from tests.integration.ui.conftest import Started

PATIENCE_S = 10.0


async def picture(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The next one."""
    async with asyncio.timeout(PATIENCE_S):
        async for line in answer.content:
            if line.startswith(b"data: "):
                return dict(json.loads(line.removeprefix(b"data: ")))
    raise AssertionError("the feed ended")


async def test_a_picture_says_who_is_there_and_who_is_not(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("read")).url
    async with session.get(url + "/ui/feed") as answer:
        assert answer.content_type == "text/event-stream" and answer.headers["Cache-Control"] == "no-store"
        told = await picture(answer)
    states = {one["name"]: one["state"] for one in told["services"]}
    assert states == {"author": "down", "conference": "down", "directory": "down", "stream": "down"}
    assert {(one["peer"], one["kind"]) for one in told["breakers"]} >= {("author", "write"), ("conference", "read")}
    assert told["creates"]["outcomes"] == {"done": 0, "refused": 0, "unknown": 0}
    assert (told["operations"]["state"], told["mails"]["state"], told["epoch_age_s"]) == ("away", "absent", None)


async def test_looking_opens_no_breaker(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("read")).url
    async with session.get(url + "/ui/feed") as answer:
        told = [await picture(answer) for _ in range(3)][-1]
    assert {(one["state"], one["calls"]) for one in told["breakers"]} == {("closed", 0)}


async def test_so_many_may_look_and_no_more(started: Started, session: aiohttp.ClientSession) -> None:
    url = (await started("read")).url
    async with AsyncExitStack() as stack:
        for _ in range(LISTENERS_MAX):
            await picture(await stack.enter_async_context(session.get(url + "/ui/feed")))
        async with session.get(url + "/ui/feed") as refused:
            assert (refused.status, (await refused.json(content_type=None))["code"]) == (503, "overloaded")


async def test_a_long_look_is_no_late_answer(started: Started, session: aiohttp.ClientSession) -> None:
    gateway = await started("read")
    async with session.get(gateway.url + "/ui/feed") as answer:
        for _ in range(4):  # longer than the deadline of a request
            await picture(answer)
    async with session.get(gateway.admin_url + "/metrics") as answer:
        families = {family.name: family for family in text_string_to_metric_families(await answer.text())}
    assert [
        sample.value for sample in families["tally_deadlines_exceeded"].samples if sample.name.endswith("_total")
    ] == [0]
    routes = {sample.labels.get("http_route") for sample in families["http_server_request_duration_seconds"].samples}
    assert "/ui/feed" not in routes


async def test_nobody_looks_and_nothing_is_done() -> None:
    taken = 0

    async def look() -> bytes:
        nonlocal taken
        taken += 1
        return b"{}"

    feed = Feed(look, SystemClock())
    first, second = feed.join(), feed.join()
    assert (await first.get(), await second.get(), taken) == (b"data: {}\n\n", b"data: {}\n\n", 1)
    feed.leave(first)
    assert await second.get() == b"data: {}\n\n"
    feed.leave(second)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "ui feed" and not task.cancelling()]


async def test_a_picture_that_fails_is_not_the_end() -> None:
    failures = [ValueError("a fault of ours")]

    async def look() -> bytes:
        if failures:
            raise failures.pop()
        return b"{}"

    feed = Feed(look, SystemClock())
    listener = feed.join()
    assert await listener.get() == b"data: {}\n\n"
    feed.leave(listener)


async def test_a_stop_ends_the_feed(session: aiohttp.ClientSession) -> None:
    feed = Feed(_empty, SystemClock())
    listener = feed.join()
    feed.close()
    assert await listener.get() is None
    feed.leave(listener)


async def _empty() -> bytes:
    return b"{}"
