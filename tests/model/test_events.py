"""The relay and the shadow copies: the rules that the product uses hold, and their near misses don't."""

from __future__ import annotations

import pytest

from . import events
from .events import Event, Relay, by_incarnation_and_version, followed, held_after, histories, relayed


def test_a_queue_without_a_cursor_publishes_every_committed_event() -> None:
    assert relayed(Relay(events.as_queue)) is None


def test_a_cursor_on_a_serial_skips_what_commits_late() -> None:
    lost = relayed(Relay(events.by_serial))
    assert lost is not None
    assert lost.trace[-1].endswith("commits"), "what is lost became visible behind the cursor"


@pytest.mark.parametrize("relay", [Relay(events.by_xid), Relay(events.by_serial, insert_locked=True)])
def test_a_cursor_below_what_still_runs_publishes_every_committed_event(relay: Relay) -> None:
    assert relayed(relay) is None


@pytest.mark.parametrize("restored", [False, True])
def test_a_copy_that_goes_by_incarnation_and_version_ends_like_its_source(restored: bool) -> None:
    assert followed(by_incarnation_and_version, restored=restored) is None


def test_a_copy_that_goes_by_version_alone_is_right_until_its_source_is_restored() -> None:
    assert followed(events.by_version, restored=False) is None
    assert followed(events.by_version, restored=True) is not None


@pytest.mark.parametrize("consume", [events.without_tombstone, events.last_arrival])
def test_a_copy_that_forgets_what_it_knew_is_wrong_without_any_restore(consume: events.Consume) -> None:
    assert followed(consume, restored=False) is not None


def test_a_late_update_does_not_bring_a_deleted_entity_back() -> None:
    order = (Event(0, 1, "a"), Event(0, 3, None), Event(0, 2, "b"))
    assert held_after(by_incarnation_and_version, order) is None


def test_a_source_restored_to_before_the_entity_existed_takes_it_from_the_copy() -> None:
    order = (Event(0, 1, "a"), Event(1, 0, None))
    assert held_after(by_incarnation_and_version, order) is None


def test_the_histories_are_not_vacuous() -> None:
    assert len(list(histories(restored=False))) == 4
    assert len(list(histories(restored=True))) == 28
