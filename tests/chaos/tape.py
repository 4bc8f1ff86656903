"""Histories made by hand, for the checker's own tests: a run in which nothing is wrong, until a test says so.

    tape = Tape()
    op = tape.create(at=(10, 20))            # milliseconds since the beginning; answers 201 with a new operation
    tape.lists(at=(30, 40), shown=[op])      # in both directions
    tape.ends()                              # settled and observed; the databases hold what the test put there

Everything is about one author and one event unless a test names others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from uuid import UUID

from tally.chassis.problems import CONTENT_TYPE as PROBLEM
from tests.chaos.cast import ATTENDING, Cast
from tests.chaos.history import (
    Completed,
    Database,
    Fault,
    Half,
    Header,
    Healed,
    History,
    Invoked,
    Kind,
    Phase,
    Record,
    Seat,
    Settlement,
    Stall,
    Told,
    Trouble,
    assembled,
)

At = tuple[int, int]
"""Began and ended, in milliseconds since the beginning of the tape."""

WALL_MS = 1_800_000_000_000
AUTHOR, EVENT = UUID(int=0xA << 120), UUID(int=0xE << 120)
OTHER_AUTHOR, OTHER_EVENT = UUID(int=0xA1 << 120), UUID(int=0xE1 << 120)
SETTLED_MS = 1_000_000
"""Tapes are shorter than this."""


def op_at(ms: int, number: int = 0) -> UUID:
    """The operation that a gateway would make then."""
    return UUID(int=(WALL_MS + ms) << 80 | 0x7 << 76 | 0b10 << 62 | number)


@dataclass
class Tape:
    """Records in the order in which the test makes them; their times are the test's."""

    capacity: int | None = None
    cast: Cast = ATTENDING
    records: list[Record] = field(default_factory=list)
    author_halves: list[Half] = field(default_factory=list)
    conference_halves: list[Half] = field(default_factory=list)
    outbox: list[Told] = field(default_factory=list)
    seats: list[Seat] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._numbers = count(1)
        self.records.append(
            Header(
                seed=1,
                scenario="tape",
                seconds=1,
                clients=1,
                request_deadline_s=2,
                relationship=self.cast.relationship.name,
            )
        )
        for author in (AUTHOR, OTHER_AUTHOR):
            self.request(Kind.MAKE_AUTHOR, (0, 1), status=201, made=author, names={})
        for event in (EVENT, OTHER_EVENT):
            self.request(Kind.MAKE_EVENT, (0, 1), status=201, made=event, names={}, capacity=self.capacity)

    @property
    def history(self) -> History:
        return assembled(self.records)

    # -- what clients do

    def request(
        self,
        kind: Kind,
        at: At,
        *,
        status: int | None = None,
        code: str | None = None,
        names: dict[str, UUID] | None = None,
        capacity: int | None = None,
        target: str = "gateway",
        **end: Any,
    ) -> int:
        """A request and its answer; a `code` brings its own status and media type."""
        number = next(self._numbers)
        named: dict[str, Any] = {"author": AUTHOR, "event": EVENT} if names is None else names
        start = Invoked(number, at[0] * 1_000_000, WALL_MS + at[0], 0, target, kind, capacity=capacity, **named)
        if code is not None:
            end = {"media": PROBLEM, "code": code, **end}
            status = status or self.cast.codes[code].status
        self.records += [start, Completed(number, at[1] * 1_000_000, status, **end)]
        return number

    def create(self, at: At, op: UUID | None = None, *, status: int = 201, **names: UUID) -> UUID:
        op = op or op_at(at[0], next(self._numbers))
        self.request(Kind.CREATE, at, status=status, operation=op, names=_pair(names))
        return op

    def refused(self, at: At, code: str, **names: UUID) -> None:
        self.request(Kind.CREATE, at, code=code, names=_pair(names))

    def unknown(self, at: At, op: UUID | None = None) -> None:
        """A create that answered 504, with its operation or without."""
        self.request(Kind.CREATE, at, code="outcome-unknown", operation=op)

    def lost(
        self, at: At, kind: Kind = Kind.CREATE, trouble: Trouble = Trouble.LOST, *, fault: str | None = "kill"
    ) -> None:
        """No answer, because the gateway was killed meanwhile."""
        if fault is not None:
            self.fault(at, fault=fault)
        self.request(kind, at, trouble=trouble, reason="reset")

    def cancel(self, at: At, *, code: str | None = None) -> None:
        self.request(Kind.CANCEL, at, status=None if code else 204, code=code)

    def delete_author(self, at: At) -> None:
        self.request(Kind.DELETE_AUTHOR, at, status=204, names={"author": AUTHOR}, target="author")

    def lists(self, at: At, shown: Iterable[UUID], *, complete: bool = True) -> None:
        """Both directions of the pair."""
        ops = list(shown)
        by_event = [(op, AUTHOR) for op in ops]
        by_author = [(op, EVENT) for op in ops]
        for kind, names, items in (
            (Kind.LIST_BY_EVENT, {"event": EVENT}, by_event),
            (Kind.LIST_BY_AUTHOR, {"author": AUTHOR}, by_author),
        ):
            self.request(kind, at, status=200, shown=items, complete=complete, names=names)

    def status(self, at: At, op: UUID, state: str, *, complete: bool = True) -> None:
        self.request(Kind.STATUS, at, status=200, state=state, complete=complete, names={"operation": op})

    # -- what happens to the services

    def fault(self, at: At, target: str = "gateway", fault: str = "kill") -> None:
        number = next(self._numbers)
        self.records += [Fault(number, at[0] * 1_000_000, fault, target), Healed(number, at[1] * 1_000_000)]

    def stall(self, at: At) -> None:
        self.records.append(Stall(at[1] * 1_000_000, (at[1] - at[0]) * 1_000_000))

    # -- the last look

    def holds(
        self, op: UUID, *, author: str | None = "L", conference: str | None = "L", told: str = "confirmed"
    ) -> None:
        """Rows of an operation in both databases (None: no row), and its events."""
        if author:
            self.author_halves.append(Half(op, author, AUTHOR, EVENT))
        if conference:
            self.conference_halves.append(Half(op, conference, AUTHOR, EVENT))
        for type in told.split():
            self.outbox.append(Told(len(self.outbox) + 1, type, op, AUTHOR, EVENT))

    def ends(self, at: int = 900_000, *, reached: bool = True, shown: Sequence[UUID] | None = None) -> History:
        """Settled and observed; the lists show what both hold live, unless the test says otherwise."""
        at_ns, wall_ms = at * 1_000_000, WALL_MS + at
        self.records.append(Phase("healed", at_ns, wall_ms))
        self.records.append(Settlement(at_ns, reached, wall_ms, WALL_MS + SETTLED_MS, 3.0))
        left, right = self.cast.owners
        for service, entities, halves, seats, outbox in (
            (left, (AUTHOR, OTHER_AUTHOR), self.author_halves, [], []),
            (right, (EVENT, OTHER_EVENT), self.conference_halves, self.seats, self.outbox),
        ):
            mark = WALL_MS + SETTLED_MS
            self.records.append(Database(service, at_ns, mark, mark, entities, halves, seats, outbox))
        there = {half.op for half in self.conference_halves if half.st == "L"}
        live = [half.op for half in self.author_halves if half.st == "L" and half.op in there]
        self.lists((at + 10, at + 20), live if shown is None else shown)
        for kind, name, other in (
            (Kind.LIST_BY_EVENT, "event", OTHER_EVENT),
            (Kind.LIST_BY_AUTHOR, "author", OTHER_AUTHOR),
        ):
            self.request(kind, (at + 10, at + 20), status=200, shown=[], names={name: other})
        return self.history


def _pair(names: dict[str, UUID]) -> dict[str, UUID]:
    return {"author": AUTHOR, "event": EVENT, **names}
