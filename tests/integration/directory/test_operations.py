"""The operation log: states as they were told, the current one of them, what is stuck, and operations as they go on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import msgspec
import pytest

from services.directory.states import FINAL, SAGA_STATES, STATES
from tally.gateway.history import STATES as GATEWAY_STATES
from tally.gateway.operations import deferred_id
from tally.protocol import operation
from tests.integration.directory.running import Running, eventually
from tests.integration.directory.telling import BEGIN, Telling


def new_operation(ago: timedelta = timedelta()) -> UUID:
    return operation.make(int((BEGIN - ago).timestamp() * 1000), uuid4().int)


def reported(op: UUID, state: str, **more: Any) -> dict[str, Any]:
    pair = {"author": str(uuid4()), "event": str(uuid4())}
    return {"operation": str(op), "state": state, "at": BEGIN.isoformat(), **pair, **more}


async def states(here: Running, op: UUID) -> list[str]:
    answer = await here.get(f"/operation/{op}")
    assert answer.status == 200, answer.says()
    assert answer.body["state"] == answer.body["history"][-1]["state"]
    return [entry["state"] for entry in answer.body["history"]]


async def test_an_operation_tells_its_history(here: Running) -> None:
    telling = Telling()
    op = telling.attend(uuid4(), uuid4())
    telling.report(reported(op, "recorded"))
    telling.cancel(op)
    await here.told(telling.events)
    assert await states(here, op) == ["requested", "recorded", "confirmed", "cancelled"]
    history = (await here.get(f"/operation/{op}")).body["history"]
    assert history[-1]["reason"] == "cancelled"
    assert history[0]["author"] == history[-1]["author"]


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_the_current_state_does_not_depend_on_what_came_first(here: Running, seed: int) -> None:
    telling, id = Telling(), deferred_id(int(BEGIN.timestamp() * 1000), uuid4().int)
    pair = {"author": uuid4(), "event": uuid4()}
    attempt = telling.attend(pair["author"], pair["event"])
    telling.operation("deferred", id, **pair, requested_at=BEGIN.isoformat())
    telling.operation("retried", id, attempt=1, reason="service-unavailable", next_at=BEGIN.isoformat())
    telling.operation("confirmed", id, **pair, attempt=attempt)
    telling.report(reported(attempt, "recorded"))
    shuffled = telling.events * 2
    Random(seed).shuffle(shuffled)
    await here.told(shuffled)
    assert await states(here, id) == ["requested", "deferred", "retried", "confirmed"]
    assert (await here.get(f"/operation/{id}")).body["attempt"] == str(attempt)
    assert await states(here, attempt) == ["requested", "recorded", "confirmed"]


async def test_what_is_stuck_comes_with_its_age_its_reason_and_its_attempts(here: Running) -> None:
    telling = Telling()
    old = deferred_id(int((BEGIN - timedelta(days=1)).timestamp() * 1000), uuid4().int)
    done, unknown = new_operation(), new_operation()
    telling.operation("deferred", old, author=uuid4(), event=uuid4(), requested_at=BEGIN.isoformat())
    for number in (1, 2):
        telling.operation("retried", old, attempt=number, reason="service-unavailable", service="conference")
    telling.report(reported(done, "recorded"), reported(unknown, "unknown"))
    telling.tell("attendance.confirmed", done, {"operation": done, "author": uuid4(), "event": uuid4()})
    await here.told(telling.events)
    (stuck,) = await here.items("/operation?state=retried&older_than=30s")
    assert (stuck["id"], stuck["attempts"], stuck["reason"]) == (str(old), 2, "service-unavailable")
    assert stuck["service"] == "conference" and stuck["age_s"] > 86_400
    assert [one["id"] for one in await here.items("/operation?state=unknown")] == [str(unknown)]
    assert [one["id"] for one in await here.items("/operation?state=confirmed")] == [str(done)]
    assert {one["id"] for one in await here.items("/operation")} == {str(old), str(unknown)}
    assert [len(page) for page in await here.pages("/operation", 1)] == [1, 1]
    assert await here.items("/operation?older_than=9999d") == []


async def test_the_gauges_count_what_is_open(here: Running) -> None:
    telling = Telling()
    telling.report(*(reported(new_operation(), "unknown") for _ in range(3)))
    await here.told(telling.events)

    async def counted() -> bool:
        return 'tally_operations{state="unknown"} 3.0' in here.signals.exposition("")[0].decode()

    await eventually(counted, "the gauge says so")


async def test_an_operation_nobody_told_of_is_not_found(here: Running) -> None:
    for path in ("", "/events"):
        answer = await here.get(f"/operation/{uuid4()}{path}")
        assert (answer.status, answer.body["code"]) == (404, "operation-not-found")


async def event_of(stream: aiohttp.StreamReader) -> tuple[int, str, dict[str, Any]]:
    """The next event: its id, its name, and its data."""
    lines: dict[str, str] = {}
    async with asyncio.timeout(10):
        while True:
            line = (await stream.readline()).decode().rstrip("\n")
            if line:
                name, _, value = line.partition(": ")
                lines[name] = value
            elif "data" in lines:
                return int(lines["id"]), lines["event"], msgspec.json.decode(lines["data"])


async def test_a_listener_hears_the_past_then_the_present_until_the_end(here: Running) -> None:
    telling, op = Telling(), new_operation()
    telling.report(reported(op, "unknown", reason="timeout"))
    await here.told(telling.events)
    async with here.listening(f"/operation/{op}/events") as stream:
        assert [(await event_of(stream))[1] for _ in range(2)] == ["requested", "unknown"]
        telling.tell("attendance.confirmed", op, {"operation": op, "author": uuid4(), "event": uuid4()})
        await here.tell(telling.events[-1:])
        last, name, data = await event_of(stream)
        assert (name, data["state"]) == ("confirmed", "confirmed")
        assert await stream.read() == b""
    async with here.listening(f"/operation/{op}/events", **{"Last-Event-ID": str(last - 1)}) as stream:
        assert (await event_of(stream))[0] == last


async def test_the_log_refuses_to_be_changed(here: Running) -> None:
    telling = Telling()
    telling.report(reported(new_operation(), "unknown"))
    await here.told(telling.events)
    async with here.database() as connection:
        for statement in ("UPDATE operation_state SET state = 'refused'", "DELETE FROM operation_state"):
            with pytest.raises(Exception, match="append-only"):
                await connection.execute(statement)


async def test_code_and_database_know_the_same_states(here: Running) -> None:
    async with here.database() as connection:
        rows = await connection.fetch("SELECT state, final FROM operation_kind")
    assert {row["state"] for row in rows} == {*STATES, *SAGA_STATES}
    assert {row["state"] for row in rows if row["final"]} == FINAL
    assert {row["state"] for row in rows} == set(GATEWAY_STATES)
