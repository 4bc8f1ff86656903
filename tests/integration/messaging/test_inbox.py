"""The inbox applies each event once, in the order of its subject, whatever the stream does."""

from __future__ import annotations

import asyncio
import random
from uuid import UUID, uuid4

import pytest
from nats.aio.msg import Msg

from tally.chassis.signals import Signals
from tally.messaging.event import Event
from tests.integration.messaging.consumer import (
    FIRST_LIFE,
    SECOND_LIFE,
    Consumer,
    Scene,
    event,
    moment,
    running,
)


async def test_events_are_applied_in_the_order_of_the_stream(scene: Scene, consumer: Consumer) -> None:
    one, other = uuid4(), uuid4()
    events = [event(one, 1, "created"), event(other, 1, "created"), event(one, 2), event(other, 2, "deleted")]
    await consumer.until(await scene.publish(*events))
    assert await consumer.applied() == [one.id for one in events]
    assert await consumer.view() == {one: (FIRST_LIFE, 2, "v2")}
    assert consumer.batches == [[1, 2, 3, 4]]
    assert consumer.counted("applied") == 4


def _history(chance: random.Random) -> list[Event]:
    """Lives of a few subjects; some end, some go on in another incarnation."""
    events: list[Event] = []
    for _ in range(12):
        subject, version = UUID(int=chance.getrandbits(128)), 0
        for inc in (FIRST_LIFE, SECOND_LIFE)[: chance.randint(1, 2)]:
            for _ in range(chance.randint(1, 4)):
                version += 1
                events.append(event(subject, version, "updated", inc=inc, name=f"{inc.int}.{version}"))
            if chance.random() < 0.5:
                version += 1
                events.append(event(subject, version, "deleted", inc=inc))
                version = chance.randint(0, version)  # the next life began from an older copy
    return events


def _owners(events: list[Event]) -> dict[UUID, tuple[UUID, int, str]]:
    """What the owner has at the end."""
    newest: dict[UUID, Event] = {}
    for one in events:
        if one.subject not in newest or one.order > newest[one.subject].order:
            newest[one.subject] = one
    return {
        subject: (one.incarnation, one.entityversion, one.data["name"])
        for subject, one in newest.items()
        if one.change != "deleted"
    }


@pytest.mark.parametrize("seed", range(6))
async def test_every_event_three_times_in_random_order_gives_the_same_view(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    events = _history(chance)
    delivered = events * 3
    chance.shuffle(delivered)
    consumer = scene.consumer(batch_max=chance.choice([1, 7, 256]))
    await consumer.until(await scene.publish(*delivered))
    assert await consumer.view() == _owners(events)
    applied = await consumer.applied()
    assert len(applied) == len(set(applied))
    assert consumer.counted("duplicate") == len(delivered) - len(applied)


async def test_what_comes_after_its_subject_was_deleted_changes_nothing(scene: Scene, consumer: Consumer) -> None:
    subject = uuid4()
    await consumer.until(await scene.publish(event(subject, 3, "deleted")))
    await consumer.until(await scene.publish(event(subject, 1, "created"), event(subject, 2)))
    assert await consumer.view() == {}


async def test_a_subject_that_is_made_again_in_a_later_life_is_back(scene: Scene, consumer: Consumer) -> None:
    subject = uuid4()
    await consumer.until(await scene.publish(event(subject, 9, "deleted")))
    await consumer.until(await scene.publish(event(subject, 2, "created", inc=SECOND_LIFE), event(subject, 8)))
    assert await consumer.view() == {subject: (SECOND_LIFE, 2, "v2")}


async def test_a_consumer_of_every_event_gets_also_what_is_older(scene: Scene) -> None:
    consumer = scene.consumer(every_event=True)
    subject = uuid4()
    second, first = event(subject, 2), event(subject, 1)
    await consumer.until(await scene.publish(second, first, second, first))
    await consumer.until(await scene.publish(first))
    assert await consumer.applied() == [second.id, first.id]
    assert consumer.counted("duplicate") == 3


async def test_what_was_applied_but_not_acknowledged_is_not_applied_again(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A consumer that is killed between commit and acknowledgement."""
    subject = uuid4()
    killed, next_life = scene.consumer(), scene.consumer()

    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    await scene.publish(event(subject, 1, "created"))
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(Msg, "ack", die)
        await killed.inbox.run_once()
    assert await killed.view() == {subject: (FIRST_LIFE, 1, "v1")}
    await killed.inbox.close()
    sequence = await scene.publish(event(subject, 2))
    await next_life.until(sequence)
    assert await next_life.view() == {subject: (FIRST_LIFE, 2, "v2")}
    assert len(await next_life.applied()) == 2


async def test_of_two_replicas_one_consumes_and_the_other_takes_over(scene: Scene) -> None:
    first, second = scene.consumer(), scene.consumer()
    subject = uuid4()
    await first.until(await scene.publish(event(subject, 1, "created")))
    assert await second.inbox.run_once() == 0
    assert second.inbox.applied_sequence == 1, "who stands by knows how far the other one is"
    sequence = await scene.publish(event(subject, 2))
    await first.inbox.close()
    await second.until(sequence)
    assert first.batches == [[1]]
    assert second.batches == [[2]]


async def test_who_believes_to_lead_and_does_not_applies_nothing(scene: Scene) -> None:
    deposed, leader = scene.consumer(), scene.consumer()
    subject = uuid4()
    await deposed.until(await scene.publish(event(subject, 1, "created")))
    await leader.database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
    )
    async with running(deposed), running(leader):
        for version in range(2, 40):
            sequence = await scene.publish(event(subject, version))
        await moment(lambda: max(deposed.inbox.applied_sequence, leader.inbox.applied_sequence) >= sequence)
    applied = await leader.database.fetch("SELECT version FROM applied ORDER BY n")
    assert [row["version"] for row in applied] == list(range(1, 40))


async def test_a_broker_that_is_killed_is_waited_for(scene: Scene, consumer: Consumer) -> None:
    subject = uuid4()
    async with running(consumer):
        await scene.publish(event(subject, 1, "created"))
        await asyncio.to_thread(scene.broker.kill)
        await asyncio.to_thread(scene.broker.start)
        await scene.reachable()
        sequence = await scene.publish(event(subject, 2))
        await moment(lambda: consumer.inbox.applied_sequence >= sequence)
    assert await consumer.view() == {subject: (FIRST_LIFE, 2, "v2")}
    assert len(await consumer.applied()) == 2


async def test_a_stream_that_was_made_anew_is_read_from_its_beginning(scene: Scene, consumer: Consumer) -> None:
    one, other = uuid4(), uuid4()
    old = [event(one, 1, "created"), event(one, 2), event(other, 1, "created")]
    await consumer.until(await scene.publish(*old))
    await scene.wipe()
    # The outboxes publish again what they still have, and something new.
    sequence = await scene.publish(old[1], event(one, 3))
    async with running(consumer):
        await moment(lambda: consumer.counted("applied") == 4)
    assert consumer.inbox.applied_sequence == sequence == 2
    assert await consumer.view() == {one: (FIRST_LIFE, 3, "v3"), other: (FIRST_LIFE, 1, "v1")}


async def test_a_database_that_is_an_older_copy_gets_what_it_lacks_again(scene: Scene, consumer: Consumer) -> None:
    subjects = [uuid4() for _ in range(5)]
    await consumer.until(await scene.publish(*(event(subject, 1, "created") for subject in subjects[:2])))
    await consumer.database.execute("CREATE TABLE older AS TABLE inbox_cursor")
    await consumer.until(await scene.publish(*(event(subject, 1, "created") for subject in subjects[2:])))
    await consumer.inbox.close()
    await consumer.database.execute("DELETE FROM inbox_cursor")
    await consumer.database.execute("INSERT INTO inbox_cursor TABLE older")
    for table in ("view", "inbox_version"):
        await consumer.database.execute(f"DELETE FROM {table} WHERE subject <> ALL ($1)", subjects[:2])
    restored = scene.consumer()
    await restored.until(5)
    assert set(await restored.view()) == set(subjects)
    assert restored.batches == [[3, 4, 5]]


async def test_a_delivery_that_is_lost_is_gone_back_for(scene: Scene, consumer: Consumer) -> None:
    subject = uuid4()
    await consumer.until(await scene.publish(event(subject, 1, "created")))
    sequence = await scene.publish(event(subject, 2), event(subject, 3))
    # Somebody else gets what was meant for us, as a connection does that breaks in the wrong moment.
    thief = await (await scene.stream.jetstream()).pull_subscribe_bind(
        consumer=consumer.inbox.name, stream="TALLY_EVENTS"
    )
    await thief.fetch(1)
    await consumer.until(sequence)
    assert await consumer.view() == {subject: (FIRST_LIFE, 3, "v3")}
    assert [row["version"] for row in await consumer.database.fetch("SELECT version FROM applied ORDER BY n")] == [
        1,
        2,
        3,
    ]


async def test_a_database_that_is_away_is_no_message_s_fault(scene: Scene, consumer: Consumer) -> None:
    subject = uuid4()
    tries = 0

    def hang_up() -> None:
        nonlocal tries
        tries += 1
        if tries < 8:
            raise ConnectionResetError("PostgreSQL went away")

    consumer.before_commit = hang_up
    await consumer.until(await scene.publish(event(subject, 1, "created")))
    assert await consumer.view() == {subject: (FIRST_LIFE, 1, "v1")}
    assert consumer.counted("parked") == 0


async def test_the_lag_is_nothing_when_nothing_is_left(scene: Scene, consumer: Consumer) -> None:
    await consumer.until(await scene.publish(*(event(uuid4(), 1, "created") for _ in range(3))))
    assert consumer.gauge("stream_pending") == 0
    assert consumer.gauge("projection_lag_seconds", "projection") > 0
    await consumer.inbox.run_once()
    assert consumer.gauge("projection_lag_seconds", "projection") == 0


async def test_a_message_s_span_points_at_what_caused_it(scene: Scene) -> None:
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans = InMemorySpanExporter()
    consumer = scene.consumer(signals=Signals("test", span_exporter=spans))
    cause = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    told = event(uuid4(), 1, "created")
    traced = Event(
        **{name: getattr(told, name) for name in told.__struct_fields__ if name != "traceparent"}, traceparent=cause
    )
    await consumer.until(await scene.publish(traced))
    (span,) = spans.get_finished_spans()
    assert span.name == "consume"
    assert [format(link.context.trace_id, "032x") for link in span.links] == ["a" * 32]
