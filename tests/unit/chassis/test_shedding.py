"""Who finds no room is told so before its body is read, and health and admin endpoints are never asked."""

import asyncio
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from tally.chassis import logs
from tally.chassis import shedding as chassis_shedding
from tally.chassis.clock import SystemClock
from tally.chassis.problems import Problem
from tally.chassis.shedding import shedding
from tally.chassis.signals import Signals
from tally.resilience.limiter import LimiterSettings
from tests.unit.chassis.test_app import answered, ask, connected, up
from tests.unit.chassis.test_auth import OwnClock

TWO = LimiterSettings(limit_initial=2, limit_min=2, limit_max=2)


class Room:
    """An application that keeps who is in it until the door is opened."""

    def __init__(self) -> None:
        self.entered = 0
        self.door = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.entered += 1
        await self.door.wait()
        if scope.get("fails"):
            raise LookupError("a bug")


async def never() -> Message:
    raise AssertionError("the body was asked for")


async def nowhere(message: Message) -> None:
    raise AssertionError("it is not the limit that answers")


def value(signals: Signals, name: str, **labels: str) -> float | None:
    return signals.registry.get_sample_value(name, labels)


async def test_beyond_the_limit_it_is_refused_unread_and_told_when_to_come_back() -> None:
    room, signals = Room(), Signals("trial")
    limited = shedding(room, OwnClock(), signals, TWO)
    inside = [asyncio.create_task(limited({}, never, nowhere)) for _ in range(2)]
    await asyncio.sleep(0)
    assert value(signals, "tally_requests_in_flight") == 2
    with pytest.raises(Problem) as shed:
        await limited({}, never, nowhere)
    assert (shed.value.code, shed.value.status, shed.value.retry_after_s) == ("overloaded", 503, TWO.retry_after_s)
    assert room.entered == 2
    assert value(signals, "tally_shed_total", reason="full") == 1
    room.door.set()
    await asyncio.gather(*inside)
    await limited({}, never, nowhere)
    assert room.entered == 3
    assert value(signals, "tally_requests_in_flight") == 0


async def test_a_flood_of_refusals_is_a_line_a_second_and_not_one_each() -> None:
    room, clock = Room(), OwnClock()
    limited = shedding(room, clock, Signals("trial"), TWO)
    inside = [asyncio.create_task(limited({}, never, nowhere)) for _ in range(2)]
    await asyncio.sleep(0)
    with logs.capture() as lines:
        for _ in range(50):
            scope: Scope = {}
            with pytest.raises(Problem):
                await limited(scope, never, nowhere)
            assert chassis_shedding.SHED in scope  # by which the log of requests knows it
            clock.at_s += 0.25
    assert [line["event"] for line in lines] == ["requests shed"] * 13
    assert [line["requests"] for line in lines] == [1, *[4] * 12]
    room.door.set()
    await asyncio.gather(*inside)


@pytest.mark.parametrize("end", ["fails", "cancelled"])
async def test_a_request_that_fails_or_is_given_up_leaves_its_place(end: str) -> None:
    room, signals = Room(), Signals("trial")
    limited = shedding(room, OwnClock(), signals, TWO)
    task = asyncio.create_task(limited({"fails": end == "fails"}, never, nowhere))
    await asyncio.sleep(0)
    if end == "cancelled":
        task.cancel()
    room.door.set()
    await asyncio.gather(task, return_exceptions=True)
    assert value(signals, "tally_requests_in_flight") == 0


def test_what_it_would_count_is_there_before_anything_was_shed() -> None:
    signals = Signals("trial")
    shedding(Room(), SystemClock(), signals)
    assert value(signals, "tally_shed_total", reason="full") == 0
    assert value(signals, "tally_requests_limit") == chassis_shedding.SETTINGS.limit_initial


async def test_a_full_service_answers_503_at_once_though_the_body_has_not_come_and_health_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def narrow(app: Any, clock: Any, signals: Any) -> Any:
        return shedding(app, clock, signals, TWO)

    monkeypatch.setattr("tally.chassis.app.shedding", narrow)
    async with up() as service:
        waiting = [asyncio.create_task(ask(service.url, "/wait")) for _ in range(2)]
        async with asyncio.timeout(10):
            while value(service.signals, "tally_requests_in_flight") != 2:  # noqa: ASYNC110 - another's gauge
                await asyncio.sleep(0.01)
            reader, writer = await connected(service.url)
            writer.write(b"POST /author HTTP/1.1\r\nHost: t\r\nContent-Length: 1000\r\n\r\n")
            with logs.capture() as lines:
                refused = await answered(reader)
            assert [line["event"] for line in lines] == ["requests shed"]
            assert (refused.status, refused.json["code"]) == (503, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
            for path in ("/livez", "/readyz", "/metrics", "/admin/x"):
                assert (await ask(service.admin_url, path)).status == 200
        service.trial.release.set()
        assert [answer.status for answer in await asyncio.gather(*waiting)] == [200, 200]
        writer.close()
