"""A relationship is declared once, and what can't work is refused where it is declared."""

from __future__ import annotations

import pytest

from tally.protocol.relationship import End, Relationship, Side

AUTHOR = End("author", "author", "authors")
EVENT = End("conference", "event", "events", seats="capacity")


def test_each_side_is_the_others_peer() -> None:
    assert [side.peer for side in Side] == [Side.RIGHT, Side.LEFT]


def test_a_service_finds_its_side_and_a_side_its_end() -> None:
    attendance = Relationship("attendance", AUTHOR, EVENT)
    assert attendance.side_of("author") is Side.LEFT
    assert attendance.side_of("conference") is Side.RIGHT
    assert [attendance.end(side) for side in Side] == [AUTHOR, EVENT]


def test_a_stranger_has_no_side() -> None:
    with pytest.raises(ValueError, match="'gateway' has no part in the relationship 'attendance'"):
        Relationship("attendance", AUTHOR, EVENT).side_of("gateway")


@pytest.mark.parametrize("name", ["", "Attendance", "1st", "att-endance", "a" * 32, 'a"; DROP TABLE half; --', "a\n"])
def test_a_name_that_can_not_stand_in_sql_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="can't name a table"):
        Relationship(name, AUTHOR, EVENT)
    with pytest.raises(ValueError, match="can't name a table"):
        Relationship("attendance", End("author", name, "authors"), EVENT)
    with pytest.raises(ValueError, match="can't name a table"):
        Relationship("attendance", AUTHOR, End("conference", name, "events"))


def test_the_longest_name_leaves_room_for_what_is_derived_from_it() -> None:
    Relationship("a" * 31, AUTHOR, EVENT)


def test_seats_belong_to_the_right_end() -> None:
    with pytest.raises(ValueError, match="seats belong to the right end, not to event"):
        Relationship("attendance", EVENT, AUTHOR)


@pytest.mark.parametrize(
    "right", [End("author", "event", "events"), End("conference", "author", "authors")], ids=["service", "entity"]
)
def test_the_ends_are_two_entities_of_two_services(right: End) -> None:
    with pytest.raises(ValueError, match="two entities of two services"):
        Relationship("attendance", AUTHOR, right)
