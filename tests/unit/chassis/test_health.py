"""What the platform is told, and that it is never about others."""

import asyncio
import json
from typing import Any

from starlette.requests import Request

from tally.chassis.health import Health
from tally.chassis.signals import Signals


def request(query: str = "", accept: str = "") -> Request:
    headers = [(b"accept", accept.encode())] if accept else []
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": query.encode(), "headers": headers})


async def passes() -> None:
    return None


async def fails() -> None:
    raise RuntimeError("cannot reach postgresql://tally:hunter2@db/own")


async def hangs() -> None:
    await asyncio.sleep(3600)


async def ask(answer: Any, query: str = "") -> tuple[int, Any]:
    response = await answer(request(query))
    return response.status_code, json.loads(response.body)


async def test_alive_means_only_that_the_event_loop_turns() -> None:
    health = Health({"database": fails}, Signals("x"))
    assert await ask(health.livez) == (200, {"status": "ok"})


async def test_before_the_start_neither_started_nor_ready_and_why() -> None:
    health = Health({"database": fails, "schema": passes}, Signals("x"))
    reason = {"database": "cannot reach postgresql://tally:***@db/own"}
    assert await ask(health.startupz) == (503, {"status": "starting", "failed": reason})
    assert await ask(health.readyz) == (503, {"status": "starting", "failed": reason})


async def test_ready_when_started_and_all_checks_pass() -> None:
    health = Health({"database": passes}, Signals("x"))
    health.started = True
    assert await ask(health.startupz) == (200, {"status": "ok"})
    assert await ask(health.readyz) == (200, {"status": "ok"})
    assert await ask(health.readyz, "verbose") == (200, {"status": "ok", "passed": {"database": "ok"}})


async def test_a_check_that_fails_makes_it_unready_but_it_stays_started() -> None:
    health = Health({"database": fails, "schema": passes}, Signals("x"))
    health.started = True
    status, report = await ask(health.readyz, "verbose=1")
    assert (status, report["status"], list(report["failed"]), report["passed"]) == (
        503,
        "not ready",
        ["database"],
        {"schema": "ok"},
    )
    assert (await ask(health.startupz))[0] == 200


async def test_a_check_that_hangs_fails() -> None:
    health = Health({"slow": hangs}, Signals("x"))
    health.started = True
    async with asyncio.timeout(5):
        assert await ask(health.readyz) == (503, {"status": "not ready", "failed": {"slow": "no answer within 1 s"}})


async def test_while_stopping_it_is_not_ready_whatever_the_checks_say() -> None:
    health = Health({"database": passes}, Signals("x"))
    health.started = health.draining = True
    assert await ask(health.readyz) == (503, {"status": "stopping"})
    assert (await ask(health.livez))[0] == 200
    assert repr(health) == "<Health stopping, checks database>"


async def test_metrics_come_in_the_format_that_the_scraper_accepts() -> None:
    signals = Signals("x")
    signals.published_total().inc()
    health = Health({}, signals)
    plain = await health.metrics(request())
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    rich = await health.metrics(request(accept="application/openmetrics-text; version=1.0.0, text/plain;q=0.5"))
    assert rich.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert bytes(rich.body).endswith(b"# EOF\n")
    assert b"tally_published_total 1.0" in bytes(plain.body)
