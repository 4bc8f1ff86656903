"""A message that can't be applied is set aside with what comes after it of its subject; the others flow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import pytest_asyncio

from tally.chassis.app import Service
from tally.chassis.app import running as serving
from tally.chassis.auth import Guard
from tally.chassis.clock import SystemClock
from tally.chassis.keys import Keys, make_key
from tally.chassis.tokens import MintedTokens, Verifier
from tally.messaging.event import encode
from tally.messaging.parked import parked_routes
from tests.integration.messaging.consumer import FIRST_LIFE, NAME, Consumer, Scene, event
from tests.unit.chassis.test_app import Answer, ask
from tests.unit.chassis.test_faults import Settings


@pytest.fixture
def consumer(scene: Scene) -> Consumer:
    consumer = scene.consumer()
    consumer.poisonous = {"poison"}
    return consumer


@dataclass
class Operator:
    """Who may look at what is parked."""

    url: str
    token: str

    async def asks(self, method: str, path: str = "") -> Answer:
        return await ask(self.url, f"/admin/parked{path}", method, {"Authorization": f"Bearer {self.token}"})

    async def parked(self) -> list[int]:
        return [one["sequence"] for one in (await self.asks("GET")).json["items"]]


@pytest_asyncio.fixture
async def operator(consumer: Consumer, tmp_path: Path) -> AsyncIterator[Operator]:
    make_key(tmp_path / "key.pem", tmp_path / "jwks.json")
    clock = SystemClock()
    verifier = Verifier(Keys(str(tmp_path / "jwks.json"), clock), "directory", "tally", clock)
    routes = parked_routes([consumer.inbox], Guard(verifier, ["operator"], consumer.signals))
    service = Service(name="directory", settings=Settings(), signals=consumer.signals, admin_routes=routes, clock=clock)
    async with serving(service) as addresses:
        yield Operator(
            addresses.admin_url, MintedTokens(str(tmp_path / "key.pem"), "operator", "tally", clock)("directory")
        )


async def test_poison_is_parked_with_its_successors_and_others_flow(scene: Scene, consumer: Consumer) -> None:
    ill, well = uuid4(), uuid4()
    await consumer.until(
        await scene.publish(event(ill, 1, "created"), event(ill, 2, name="poison"), event(well, 1), event(ill, 3))
    )
    await consumer.until(await scene.publish(event(ill, 4), event(well, 2)))
    assert await consumer.view() == {ill: (FIRST_LIFE, 1, "v1"), well: (FIRST_LIFE, 2, "v2")}
    head, *behind = await consumer.inbox.parked(0, 10)
    assert (head.sequence, head.reason, head.attempts) == (2, "Poison: poison", 4)
    assert [one.sequence for one in behind] == [4, 5]
    assert consumer.gauge("parked_messages") == consumer.counted("parked") == 3


async def test_a_retry_applies_what_is_parked_in_order(scene: Scene, consumer: Consumer, operator: Operator) -> None:
    ill = uuid4()
    events = [event(ill, 1, name="poison"), event(ill, 2), event(ill, 3)]
    await consumer.until(await scene.publish(*events))
    answer = await operator.asks("POST", f"/{NAME}/3/retry")
    assert answer.json["applied"] == 0
    assert (answer.json["waiting"], answer.json["reason"]) == (3, "Poison: poison")
    assert (await consumer.inbox.parked(0, 1))[0].attempts == 5
    consumer.poisonous.clear()
    assert (await operator.asks("POST", f"/{NAME}/1/retry")).json["applied"] == 3
    assert await consumer.applied() == [one.id for one in events]
    assert await operator.parked() == []
    assert consumer.gauge("parked_messages") == 0
    await consumer.until(await scene.publish(event(ill, 4)))
    assert await consumer.view() == {ill: (FIRST_LIFE, 4, "v4")}


async def test_what_is_dropped_is_given_up_and_what_waits_behind_can_be_applied(
    scene: Scene, consumer: Consumer, operator: Operator
) -> None:
    ill = uuid4()
    await consumer.until(await scene.publish(event(ill, 1, name="poison"), event(ill, 2)))
    assert (await operator.asks("DELETE", f"/{NAME}/1")).status == 204
    assert (await operator.asks("DELETE", f"/{NAME}/1")).status == 404
    assert await operator.parked() == [2]
    assert (await operator.asks("POST", f"/{NAME}/2/retry")).json["applied"] == 1
    assert await consumer.view() == {ill: (FIRST_LIFE, 2, "v2")}


async def test_a_retry_of_what_was_overtaken_changes_nothing(scene: Scene, consumer: Consumer) -> None:
    """The same state was told again, under another number, and parked behind itself."""
    ill = uuid4()
    told = event(ill, 1, name="poison")
    await consumer.until(await scene.publish(told, told))
    consumer.poisonous.clear()
    retried = await consumer.inbox.retry(1)
    assert retried is not None
    assert await consumer.applied() == [told.id]
    assert await consumer.inbox.parked(0, 10) == []


@pytest.mark.parametrize(
    "body",
    [
        b"\xffnothing",
        encode(event(uuid4(), 1)).replace(b"updated", b"upd\xffted"),
        encode(event(uuid4(), 1)).replace(b"author.updated", b"author.\\u0000"),
        encode(msgspec.structs.replace(event(uuid4(), 1), time=datetime.fromisoformat("0001-01-01T00:00:00+21:40"))),
    ],
)
async def test_what_is_not_an_event_is_parked_and_holds_nobody_up(
    scene: Scene, consumer: Consumer, operator: Operator, body: bytes
) -> None:
    subject = uuid4()
    await scene.publish_raw(f"tally.event.author.updated.{subject}", body)
    await consumer.until(await scene.publish(event(subject, 1)))
    assert await consumer.view() == {subject: (FIRST_LIFE, 1, "v1")}
    (item,) = (await operator.asks("GET")).json["items"]
    assert (item["sequence"], item["event"]) == (1, None)
    assert item["reason"].startswith("it is not an event")
    assert (await operator.asks("POST", f"/{NAME}/1/retry")).json["waiting"] == 1
    assert (await operator.asks("DELETE", f"/{NAME}/1")).status == 204


async def test_what_can_not_be_said_of_a_message_does_not_keep_it_from_being_parked(
    scene: Scene, consumer: Consumer
) -> None:
    ill, well = uuid4(), uuid4()
    consumer.poisonous = {"poison\0"}
    await consumer.until(await scene.publish(event(ill, 1, name="poison\0"), event(well, 1)))
    assert await consumer.view() == {well: (FIRST_LIFE, 1, "v1")}
    assert ["poison?" in item.reason for item in await consumer.inbox.parked(0, 10)] == [True]
    assert (await consumer.inbox.retry(1)) is not None


async def test_what_is_parked_outlives_its_stream(scene: Scene, consumer: Consumer) -> None:
    ill, well = uuid4(), uuid4()
    await consumer.until(await scene.publish(event(ill, 1, name="poison"), event(ill, 2)))
    await scene.wipe()
    await consumer.inbox.close()
    again = scene.consumer()
    sequence = await scene.publish(event(well, 1), event(ill, 3))
    await again.inbox.run_once()
    await again.until(sequence)
    assert [one.sequence for one in await again.inbox.parked(-100, 10)] == [-2, -1, 2]
    retried = await again.inbox.retry(2)
    assert retried is not None and retried.applied == 3
    assert await again.view() == {well: (FIRST_LIFE, 1, "v1"), ill: (FIRST_LIFE, 3, "v3")}


async def test_a_consumer_of_every_event_applies_a_parked_one_once(scene: Scene) -> None:
    consumer = scene.consumer(every_event=True)
    consumer.poisonous = {"poison"}
    told = event(uuid4(), 1, name="poison")
    await consumer.until(await scene.publish(told))
    await consumer.until(await scene.publish(told))
    consumer.poisonous.clear()
    await consumer.inbox.retry(1)
    assert await consumer.applied() == [told.id]


async def test_nobody_but_an_operator_sees_or_touches_what_is_parked(operator: Operator) -> None:
    assert (await ask(operator.url, "/admin/parked")).status == 401
    assert (await ask(operator.url, f"/admin/parked/{NAME}/1/retry", "POST")).status == 401
    assert (await ask(operator.url, f"/admin/parked/{NAME}/1", "DELETE")).status == 401
    assert (await operator.asks("POST", "/nobody/1/retry")).status == 404
    assert (await operator.asks("DELETE", f"/{NAME}/one")).status == 404
