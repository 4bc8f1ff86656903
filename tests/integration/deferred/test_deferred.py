"""Deferred operations on a real broker: how they end, in which order, and that none is carried out twice."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, NoReturn
from uuid import uuid4

import msgspec
import pytest

from tally.gateway import status
from tally.gateway.control import Control
from tally.gateway.deferred import _FAILURES_MAX
from tally.gateway.operations import partition_of
from tally.halves import memory
from tally.messaging.event import PREFIX, encode
from tally.messaging.stream import STREAM, StreamUnavailable
from tests.integration.deferred.deployment import CLOCK, Gateway, Owners, connected, gateway, working
from tests.support.broker import Broker


async def test_an_operation_is_carried_out_and_confirmed_by_its_attempt(broker: Broker) -> None:
    owners = Owners()
    author, event = owners.author(), owners.event()
    async with gateway(broker.url, owners) as one, working(one):
        deferral = await one.defer(author, event)
        assert await one.ended(deferral) == "confirmed"
        standing = await one.operations.standing(deferral.operation)
        assert standing is not None
        assert [str(op) for op in owners.live(author, event)] == [standing.data["attempt"]]


async def test_what_can_never_be_done_is_rejected_with_its_reason(broker: Broker) -> None:
    owners = Owners()
    author, full = owners.author(), owners.event(capacity=0)
    async with gateway(broker.url, owners) as one, working(one):
        codes = {}
        for left, right in ((uuid4(), full), (author, uuid4()), (uuid4(), uuid4()), (author, full)):
            deferral = await one.defer(left, right)
            assert await one.ended(deferral) == "rejected"
            standing = await one.operations.standing(deferral.operation)
            assert standing is not None
            codes[left, right] = standing.data["code"]
        assert list(codes.values()) == ["author-not-found", "event-not-found", "both-not-found", "event-full"]


async def test_it_waits_for_a_service_that_is_away_and_ends_when_it_is_back(broker: Broker) -> None:
    owners = Owners()
    owners.conference.away = True
    async with gateway(broker.url, owners) as one, working(one):
        deferral = await one.defer(owners.author(), owners.event())
        await one.retried()
        assert (await one.operations.standing(deferral.operation)).state == "deferred"  # type: ignore[union-attr]
        owners.conference.away = False
        assert await one.ended(deferral) == "confirmed"


async def test_a_service_that_asks_for_a_day_holds_a_partition_up_no_longer_than_one_that_is_away(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tally.gateway.deferred._BACK_OFF_MAX_S", 0.5)
    owners = Owners()
    owners.conference.busy_s = 86_400.0
    async with gateway(broker.url, owners) as one, working(one):
        author = owners.author()
        deferrals = [await one.defer(author, owners.event()) for _ in range(2)]
        await one.retried()
        owners.conference.busy_s = None
        assert [await one.ended(deferral, within_s=4.0) for deferral in deferrals] == ["confirmed"] * 2


async def test_an_author_deleted_meanwhile_is_the_reason_of_a_rejection(broker: Broker) -> None:
    owners = Owners()
    author, event = owners.author(), owners.event()
    owners.conference.away = True
    async with gateway(broker.url, owners) as one, working(one):
        deferral = await one.defer(author, event)
        await one.retried()
        for store in owners.stores.values():
            store.entities.pop(author, None)
        owners.conference.away = False
        assert await one.ended(deferral) == "rejected"
        standing = await one.operations.standing(deferral.operation)
        assert standing is not None
        assert standing.data["code"] == "author-not-found"


async def test_an_authors_operations_end_in_their_order_also_with_two_gateways(broker: Broker) -> None:
    owners = Owners()
    authors = [owners.author() for _ in range(4)]
    events = [owners.event() for _ in range(6)]
    owners.conference.away = True
    async with gateway(broker.url, owners) as one, gateway(broker.url, owners) as two, working(one, two):
        deferrals = [await one.defer(author, event) for event in events for author in authors]
        await one.retried()
        owners.conference.away = False
        for deferral in deferrals:
            assert await one.ended(deferral) == "confirmed"
        ends = [event.subject for event in await one.told() if event.type == "operation.confirmed"]
        for author in authors:
            wanted = [deferral.operation for deferral in deferrals if deferral.left == author]
            assert [op for op in ends if op in wanted] == wanted


async def test_an_attempt_without_an_answer_is_asked_about_before_there_is_another(broker: Broker) -> None:
    owners = Owners()
    author, event = owners.author(), owners.event()
    owners.conference.silent_to = {"record", "resolve", "status", "find"}
    async with gateway(broker.url, owners) as one, working(one):
        deferral = await one.defer(author, event)
        await one.retried()
        [first] = owners.live(author, event)
        owners.conference.silent_to = set()
        assert await one.ended(deferral) == "confirmed"
        standing = await one.operations.standing(deferral.operation)
        assert standing is not None
        assert standing.data["attempt"] == str(first)
        assert owners.live(author, event) == [first]


async def test_a_crash_after_the_creation_confirms_what_was_created(broker: Broker) -> None:
    owners = Owners()
    author, event = owners.author(), owners.event()
    async with (
        gateway(broker.url, owners, ack_wait_s=2.0) as one,
        gateway(broker.url, owners, ack_wait_s=2.0) as two,
    ):
        deferral = await one.defer(author, event)
        with pytest.raises(_Crash):
            await _dies_before(one, "tell", partition_of(author))
        [attempt] = owners.live(author, event)
        async with working(two):
            assert await two.ended(deferral) == "confirmed"
        standing = await two.operations.standing(deferral.operation)
        assert standing is not None
        assert standing.data["attempt"] == str(attempt)
        assert owners.live(author, event) == [attempt]


@pytest.mark.parametrize("forgotten", [False, True])
async def test_what_was_cancelled_after_a_crash_is_not_created_again(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, forgotten: bool
) -> None:
    """``forgotten``: the broker was away for longer than void rows are kept, and no half is left."""
    if forgotten:
        monkeypatch.setattr(memory, "VOID_KEEP_MS", 0)
        monkeypatch.setattr(status, "REMEMBERED_MS", 0)
    owners = Owners()
    author, event = owners.author(), owners.event()
    async with (
        gateway(broker.url, owners, ack_wait_s=2.0) as one,
        gateway(broker.url, owners, ack_wait_s=2.0) as two,
    ):
        deferral = await one.defer(author, event)
        with pytest.raises(_Crash):
            await _dies_before(one, "tell", partition_of(author))
        await two.canceller.cancel(author, event, two.deadline())
        assert owners.live(author, event) == []
        if forgotten:
            await owners.settled()
            assert [store.rows for store in owners.stores.values()] == [{}, {}]
        async with working(two):
            assert await two.ended(deferral) == "confirmed"
        assert owners.live(author, event) == []


async def test_a_crash_after_the_end_was_told_tells_nothing_new(broker: Broker) -> None:
    owners = Owners()
    author, event = owners.author(), owners.event()
    async with (
        gateway(broker.url, owners, ack_wait_s=2.0) as one,
        gateway(broker.url, owners, ack_wait_s=2.0) as two,
    ):
        deferral = await one.defer(author, event)
        following = await one.defer(author, owners.event())
        with pytest.raises(_Crash):
            await _dies_before(one, "done", partition_of(author))
        async with working(two):
            assert await two.ended(following) == "confirmed"
        ends = [told for told in await two.told() if told.subject == deferral.operation and told.change == "confirmed"]
        assert len(ends) == 1


async def test_too_old_is_rejected_as_too_late(broker: Broker) -> None:
    owners = Owners()
    async with gateway(broker.url, owners, max_age_s=60.0) as one, working(one):
        deferral = await one.defer(owners.author(), owners.event(), age_s=61.0)
        assert await one.ended(deferral) == "rejected"
        standing = await one.operations.standing(deferral.operation)
        assert standing is not None
        assert standing.data["code"] == "too-late"


async def test_a_bug_parks_the_operation_and_the_next_one_goes_on(broker: Broker) -> None:
    owners = Owners()
    author = owners.author()
    async with gateway(broker.url, owners) as one, working(one):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one.creator, "create", _nobody_foresaw)
            deferral = await one.defer(author, owners.event())
            assert await one.ended(deferral) == "parked"
        following = await one.defer(author, owners.event())
        assert await one.ended(following) == "confirmed"
        standing = await one.operations.standing(deferral.operation)
        assert standing is not None
        assert standing.state == "parked"
        await one.operations.defer(deferral, again=standing.version)
        assert await one.reaches(deferral, lambda state: state not in ("parked", "deferred")) == "confirmed"


async def test_a_retry_counts_more_than_what_was_ordered_before_it(broker: Broker) -> None:
    owners = Owners()
    async with gateway(broker.url, owners) as one, working(one):
        failures = 0

        async def create(*_: object) -> NoReturn:
            nonlocal failures
            failures += 1
            if failures == _FAILURES_MAX:  # too late for the operation to see it: it is about to be parked
                await one.notes.give(deferral.operation, "abandon")
            raise LookupError("a bug")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one.creator, "create", create)
            deferral = await one.defer(owners.author(), owners.event())
            assert await one.ended(deferral) == "parked"
        answer = await Control(one.operations, one.notes).take(deferral.operation, "retry")
        assert answer.status_code == 202
        assert await one.reaches(deferral, lambda state: state not in ("parked", "deferred")) == "confirmed"


@pytest.mark.parametrize(
    "nonsense",
    [{"author": 1.5}, {"event": None}, {"requested_at": "2026-06-01T12:00:00"}, {"requested_at": ["now"]}],
    ids=str,
)
async def test_what_makes_no_sense_is_put_aside_and_the_next_one_goes_on(
    broker: Broker, nonsense: dict[str, Any]
) -> None:
    owners = Owners()
    author = owners.author()
    async with gateway(broker.url, owners) as one:
        ill = await one.defer(author, owners.event())
        [told] = [event for event in await one.told() if event.change == "deferred"]
        subject = f"{PREFIX}.operation.deferred.{partition_of(author)}.{ill.operation}"
        changed = msgspec.structs.replace(told, id=uuid4(), data={**told.data, **nonsense})
        context = await one.stream.jetstream()
        await context.purge_stream(STREAM)
        for body in (encode(told).replace(b"/tally", b"\xff"), b"{}", encode(changed)):
            await context.publish(subject, body)
        assert await one.operations.standing(ill.operation) is None
        async with working(one):
            following = await one.defer(author, owners.event())
            assert await one.ended(following) == "confirmed"


@pytest.mark.parametrize("attempt", [None, "often", -1, 10**30, {}], ids=str)
async def test_a_state_that_makes_no_sense_does_not_stop_the_work(broker: Broker, attempt: Any) -> None:
    owners = Owners()
    owners.conference.away = True
    author = owners.author()
    async with gateway(broker.url, owners) as one:
        deferral = await one.defer(author, owners.event())
        await one.operations.tell(deferral, "retried", {"attempt": attempt}, after=0)
        async with working(one):
            await asyncio.sleep(0.2)
            owners.conference.away = False
            assert await one.ended(deferral) == "confirmed"


async def test_an_operator_gives_it_up_or_has_it_tried_now_through_any_gateway(broker: Broker) -> None:
    owners = Owners()
    owners.conference.away = True
    async with gateway(broker.url, owners) as one, gateway(broker.url, owners) as two, working(one):
        given_up, tried = (
            await one.defer(owners.author(), owners.event()),
            await one.defer(owners.author(), owners.event()),
        )
        await one.retried()
        await two.notes.give(given_up.operation, "abandon")
        assert await two.ended(given_up) == "abandoned"
        owners.conference.away = False
        await two.notes.give(tried.operation, "retry")
        assert await two.ended(tried) == "confirmed"


async def test_without_the_broker_nothing_is_deferred_and_afterwards_work_goes_on(broker: Broker) -> None:
    owners = Owners()
    owners.conference.away = True
    author, event = owners.author(), owners.event()
    async with gateway(broker.url, owners, ack_wait_s=4.0) as one, working(one):
        deferral = await one.defer(author, event)
        await one.retried()
        broker.kill()
        with pytest.raises(StreamUnavailable):
            await one.defer(author, owners.event())
        owners.conference.away = False
        broker.start()
        await connected(one.stream)
        assert await one.ended(deferral) == "confirmed"


async def test_states_are_told_with_growing_versions_even_by_a_slow_clock(broker: Broker) -> None:
    owners = Owners()
    async with gateway(broker.url, owners) as one:
        deferral = await one.defer(owners.author(), owners.event())
        ahead = (CLOCK.now_ms() + 3_600_000) * 1000
        version = await one.operations.tell(deferral, "retried", {"attempt": 1}, after=ahead)
        assert version == ahead + 1
        told = await one.told()
        assert told[-1].time - told[0].time > timedelta(minutes=59)


# --- crashes


class _Crash(Exception):
    """The process dies here."""


async def _nobody_foresaw(*args: Any) -> None:
    raise RuntimeError("nobody foresaw this")


async def _dies_before(one: Gateway, step: str, partition: int) -> None:
    """Carry out the partition's next operation, up to where the process dies: before it tells, or acknowledges."""

    async def die(*args: Any, **more: Any) -> None:
        raise _Crash

    with pytest.MonkeyPatch.context() as patch:
        if step == "tell":
            patch.setattr(one.operations, "tell_end", die)
        else:
            patch.setattr("tally.gateway.deferred._Held.done", die)
        await one.deferred.run_once(partition)
