"""The entities of the benchmark and the order in which pairs of them are attended. Pure and deterministic.

Every candidate gets the same entities and the same pairs in the same order, each in databases of its own.
The last `LISTED_EVENTS` events are kept for the read slots: they hold exactly `LISTED_AUTHORS` attendees
each, and no create slot touches them.
"""

from functools import cache
from uuid import UUID

AUTHORS = 10_000
EVENTS = 2_000
LISTED_EVENTS = 100
LISTED_AUTHORS = 20
LISTED_PAIRS = LISTED_EVENTS * LISTED_AUTHORS

CREATED_EVENTS = EVENTS - LISTED_EVENTS
PAIRS = AUTHORS * CREATED_EVENTS
# Coprime to PAIRS, so that n -> n * STRIDE mod PAIRS visits every pair once; near PAIRS / golden ratio, so
# that neighbours in time are far apart in both keys, as unrelated visitors are.
STRIDE = 11_742_653
# The fields of a UUIDv7 of one fixed millisecond; only the last 48 bits differ.
FIRST_AUTHOR = UUID("01936000-0000-7000-8000-000000000000").int
FIRST_EVENT = UUID("01936000-0000-7000-9000-000000000000").int
CONFERENCE = UUID("01936000-0000-7000-a000-000000000000")


@cache
def author_id(index: int) -> UUID:
    return UUID(int=FIRST_AUTHOR + index)


@cache
def event_id(index: int) -> UUID:
    return UUID(int=FIRST_EVENT + index)


def author_name(index: int) -> str:
    return f"Author Number {index}"


def created_pair(n: int) -> tuple[UUID, UUID]:
    """The event and author of the nth create; never one pair twice."""
    if n >= PAIRS:
        raise ValueError(f"all {PAIRS} pairs are used up: run fewer or shorter rounds")
    at = n * STRIDE % PAIRS
    return event_id(at // AUTHORS), author_id(at % AUTHORS)


def listed_pair(n: int) -> tuple[UUID, UUID]:
    """The event and author of the nth of the `LISTED_PAIRS` attendances that the read slots list."""
    event, place = divmod(n, LISTED_AUTHORS)
    return event_id(CREATED_EVENTS + event), author_id((event * 37 + place * 499) % AUTHORS)


def listed_event(n: int) -> UUID:
    """The event of the nth read: all of them in turn."""
    return event_id(CREATED_EVENTS + n % LISTED_EVENTS)
