"""The codes that follow from a relationship."""

from services.attendance import ATTENDANCE
from tally.chassis.problems import CODES
from tally.gateway.codes import codes_of
from tests.support.talks import TALK


def test_those_of_the_relationship_that_ships_are_the_documented_ones() -> None:
    codes = codes_of(ATTENDANCE)
    assert set(codes) == {"author-not-found", "event-not-found", "attendance-not-found", "event-full"}
    assert codes == {code: CODES[code] for code in codes}


def test_nothing_is_full_where_nobody_counts_seats() -> None:
    assert set(codes_of(TALK)) == {"speaker-not-found", "session-not-found", "talk-not-found"}
