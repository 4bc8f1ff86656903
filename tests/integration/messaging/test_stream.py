"""The stream's connection, against a real broker that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from tally.chassis.signals import Signals
from tally.messaging.event import Event
from tally.messaging.stream import STREAM, EventRefused, Stream, StreamUnavailable
from tests.support.broker import Broker


def event(version: int = 1, **data: Any) -> Event:
    return Event(
        id=uuid4(),
        source="/tally/test",
        type="author.updated",
        time=datetime.now(UTC),
        subject=uuid4(),
        incarnation=UUID(int=0),
        entityversion=version,
        data=data,
    )


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - what is waited for is in other processes
            await asyncio.sleep(0.02)


@pytest.fixture
async def stream(broker: Broker) -> AsyncIterator[Stream]:
    async with Stream(broker.url, "test", Signals("test")) as stream:
        await until(lambda: stream.connected)
        yield stream


async def test_entering_does_not_wait_for_a_broker_and_finds_it_when_it_comes(broker: Broker) -> None:
    broker.stop()
    signals = Signals("test")
    async with Stream(broker.url, "test", signals) as stream:
        with pytest.raises(StreamUnavailable):
            await stream.publish(event())
        assert signals.registry.get_sample_value("tally_stream_connected") == 0
        broker.start()
        await until(lambda: stream.connected)
        assert await stream.publish(event()) == await stream.last_sequence() == 1
        assert signals.registry.get_sample_value("tally_stream_connected") == 1


async def test_the_same_event_is_stored_once(stream: Stream) -> None:
    twice = event()
    assert await stream.publish(twice) == await stream.publish(twice) == 1
    assert await stream.publish_many([twice, event(), twice]) == [None, None, None]
    assert await stream.last_sequence() == 2


async def test_what_was_acknowledged_survives_a_kill(broker: Broker, stream: Stream) -> None:
    assert set(await stream.publish_many([event(n) for n in range(500)])) == {None}
    broker.kill()
    outcomes = await stream.publish_many([event(), event()])
    assert [type(outcome) for outcome in outcomes] == [StreamUnavailable, StreamUnavailable]
    with pytest.raises(StreamUnavailable):
        await stream.last_sequence()
    broker.start()
    await until(lambda: stream.connected)
    assert await stream.last_sequence() >= 500


async def test_a_broker_that_hangs_costs_the_time_that_was_given_and_no_more(broker: Broker, stream: Stream) -> None:
    broker.pause()
    async with asyncio.timeout(3):
        with pytest.raises(StreamUnavailable):
            await stream.publish(event(), timeout_s=0.2)
    broker.resume()
    assert await stream.publish(event(), timeout_s=10) > 0


async def test_an_event_that_is_too_large_is_refused_and_the_connection_stays(stream: Stream) -> None:
    large, border = event(text="x" * 1_100_000), event(text="x" * 1_048_200)
    outcomes = await stream.publish_many([event(), large, border, event()])
    assert [type(outcome) for outcome in outcomes] == [type(None), EventRefused, EventRefused, type(None)]
    assert await stream.last_sequence() == 2


async def test_a_stream_that_somebody_deleted_is_made_again(stream: Stream) -> None:
    await (await stream.jetstream()).delete_stream(STREAM)
    with pytest.raises(StreamUnavailable):
        await stream.publish(event())
    await until(lambda: stream.connected)
    assert await stream.publish(event()) == 1


async def test_settings_change_the_stream_and_leave_what_it_holds(broker: Broker, stream: Stream) -> None:
    await stream.publish(event())
    async with Stream(broker.url, "other", Signals("other"), max_bytes=50_000_000) as other:
        await until(lambda: other.connected)
        info = await (await other.jetstream()).stream_info(STREAM)
        assert (info.config.max_bytes, info.state.messages) == (50_000_000, 1)


async def test_a_full_stream_takes_no_more_and_keeps_what_it_has(broker: Broker) -> None:
    async with Stream(broker.url, "test", Signals("test"), max_bytes=1_048_576) as stream:
        await until(lambda: stream.connected)
        outcomes = await stream.publish_many([event(n, text="x" * 100_000) for n in range(20)])
        stored = outcomes.count(None)
        assert 0 < stored < 20
        assert outcomes[:stored] == [None] * stored
        assert {str(outcome) for outcome in outcomes[stored:]} == {"maximum bytes exceeded"}
