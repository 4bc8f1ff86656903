"""What an attempt's outcome means for a deferred operation, and the ids of deferred operations."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import RFC_4122, UUID, uuid4

import pytest

from services.attendance import ATTENDANCE
from tally.gateway import outcome
from tally.gateway.deferred import Confirmed, Later, Open, Rejected, verdict
from tally.gateway.operations import PARTITIONS, Deferral, deferred_id, is_deferred, partition_of
from tally.protocol import operation
from tally.protocol.relationship import Side

DEFERRAL = Deferral(uuid4(), uuid4(), uuid4(), datetime.now(UTC))


def code(result: outcome.CreateOutcome) -> str:
    came_to = verdict(result, DEFERRAL, ATTENDANCE)
    assert isinstance(came_to, Rejected)
    return came_to.code


def test_what_is_done_confirms_and_what_was_done_before_confirms_too() -> None:
    op = uuid4()
    assert verdict(outcome.Created(op), DEFERRAL, ATTENDANCE) == Confirmed(op)
    assert verdict(outcome.Already(op), DEFERRAL, ATTENDANCE) == Confirmed(op)


def test_what_will_not_change_rejects_with_the_code_that_a_caller_would_have_seen() -> None:
    assert code(outcome.NotFound((Side.LEFT,))) == "author-not-found"
    assert code(outcome.NotFound((Side.RIGHT,))) == "event-not-found"
    assert code(outcome.NotFound((Side.LEFT, Side.RIGHT))) == "both-not-found"
    assert code(outcome.Full()) == "event-full"


@pytest.mark.parametrize("result", [outcome.Contended(), outcome.ClockSkew(), outcome.Unavailable("author", "refused")])
def test_what_may_change_is_tried_later(result: outcome.CreateOutcome) -> None:
    assert isinstance(verdict(result, DEFERRAL, ATTENDANCE), Later)


def test_a_circuit_that_is_open_says_when_to_come_back() -> None:
    later = verdict(outcome.Unavailable("author", "its circuit is open", 4.0), DEFERRAL, ATTENDANCE)
    assert later == Later("its circuit is open", "author", 4.0)


def test_what_is_not_known_stays_open() -> None:
    op = uuid4()
    assert verdict(outcome.Unknown(op, "author"), DEFERRAL, ATTENDANCE) == Open(op)


def test_a_deferred_operation_is_known_by_its_id() -> None:
    id = deferred_id(1_800_000_000_000, 2**76 - 1)
    assert (id.version, id.variant) == (8, RFC_4122)
    assert is_deferred(id)
    assert operation.time_ms(id) == 1_800_000_000_000
    assert not is_deferred(operation.make(1_800_000_000_000, 2**76 - 1))


def test_an_author_is_always_in_the_same_partition_and_authors_are_spread() -> None:
    authors = [uuid4() for _ in range(1000)]
    assert [partition_of(author) for author in authors] == [partition_of(UUID(str(author))) for author in authors]
    assert {partition_of(author) for author in authors} == set(range(PARTITIONS))
