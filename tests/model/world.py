"""The space of states: two databases, what is on its way, what is known, and what was answered.

Everything is immutable and hashable, made of tuples and frozensets of tuples, because a run holds some
hundred thousand states. The first element of each tuple below is its kind:

========================================  ================================================================
message
========================================  ================================================================
RECORD side op                            to be recorded
IN FLIGHT side op                         a RECORD that has read ``closed`` and has not committed yet
RESOLVE side op                           a gateway's time-out
KILL side op inc                          from a settler, on the word of the peer's incarnation ``inc``
KILL UNSENT side op inc                   from a gateway that never sent RECORD to the other side
CANCEL side op                            a user's
SETTLE since time matched inc             to the right side
REJOIN ASKED side inc                     to the intact side
REJOIN inc live closed peer_inc           its answer
ENTITY GONE side pair, LEFT SETTLES time  exist only where a rule is taken away
========================================  ================================================================

========================================  ================================================================
fact: what a side said, once, to somebody
========================================  ================================================================
recorded side op inc peer_inc             it held the operation live
dead side op inc                          it was dead for the operation
taken side op other inc peer_inc          it refused the operation, because ``other`` was live
========================================  ================================================================

========================================  ================================================================
history: what cannot be taken back
========================================  ================================================================
started op                                a gateway has sent the first RECORD
created, failed, already, cancelled op    answers given (failed: refused, for whatever reason)
ended op                                  somebody cancelled it, or deleted or lost its entity: it may go
confirmed op, confirmed-twice op,         events of the right side
confirmed-dead op, cancelled-event op
entity-made, entity-removed pair
restored
========================================  ================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

from tally.protocol.participant import Id, Mark, Status
from tally.protocol.relationship import Side

LEFT, RIGHT = 0, 1
SIDES = (Side.LEFT, Side.RIGHT)
NAMES = ("left", "right")

Op = int
Pair = str
#: A tuple that starts with its kind; see the tables above.
Item = tuple[Any, ...]
Items = frozenset[Item]

#: An incarnation that is nobody's: a KILL that rests on nothing. Only without the rule `proof`.
NO_PROOF = -1

NONE: Items = frozenset()
RESTORED: Item = ("restored",)


class Database(NamedTuple):
    """One side's durable state. ``entities`` are the pairs whose entity of this side exists."""

    rows: frozenset[tuple[Op, Status]] = frozenset()
    entities: frozenset[Pair] = frozenset()
    inc: int = 0
    peer_inc: int = 0
    closed: int = 0
    settled: int = 0
    restoring: bool = False

    @property
    def mark(self) -> Mark:
        return _mark(*self[2:])

    @property
    def live(self) -> frozenset[Op]:
        return _live(self.rows)

    def status(self, op: Op) -> Status | None:
        for held, status in self.rows:
            if held == op:
                return status
        return None

    def marked(self, mark: Mark) -> Database:
        return self._replace(
            inc=number(mark.inc),
            peer_inc=number(mark.peer_inc),
            closed=mark.closed,
            settled=mark.settled,
            restoring=mark.restoring,
        )

    def put(self, op: Op, status: Status) -> Database:
        others = [row for row in self.rows if row[0] != op]
        return self._replace(rows=frozenset([*others, (op, status)]))

    def drop(self, ops: Iterable[Op]) -> Database:
        gone = frozenset(ops)
        return self._replace(rows=frozenset(row for row in self.rows if row[0] not in gone))


class State(NamedTuple):
    """The whole world. ``processes`` has one local state per process of the scenario, in its order."""

    databases: tuple[Database, Database]
    facts: Items
    messages: Items
    processes: tuple[Item, ...]
    history: Items
    backup: Database | None = None

    def after(
        self,
        *,
        databases: dict[int, Database] | None = None,
        process: tuple[int, Item] | None = None,
        messages: Iterable[Item] = (),
        facts: Iterable[Item] = (),
        history: Iterable[Item] = (),
    ) -> State:
        """This state with some things changed and some added."""
        left, right = self.databases
        if databases is not None:
            left, right = databases.get(LEFT, left), databases.get(RIGHT, right)
        processes = self.processes
        if process is not None:
            index, local = process
            processes = (*processes[:index], local, *processes[index + 1 :])
        return State(
            (left, right),
            _grown(self.facts, facts),
            _grown(self.messages, messages),
            processes,
            _grown(self.history, history),
            self.backup,
        )

    @property
    def restored(self) -> bool:
        return RESTORED in self.history

    @property
    def restoring(self) -> bool:
        return self.databases[LEFT].restoring or self.databases[RIGHT].restoring


class Step(NamedTuple):
    """One transaction, or one decision of a process, and the state after it."""

    label: str
    state: State


class Ledger(NamedTuple):
    """The history by kind."""

    started: frozenset[Op]
    created: frozenset[Op]
    failed: frozenset[Op]
    already: frozenset[Op]
    cancelled: frozenset[Op]
    ended: frozenset[Op]
    confirmed: frozenset[Op]
    confirmed_twice: frozenset[Op]
    confirmed_dead: frozenset[Op]
    cancelled_event: frozenset[Op]


def ledger(history: Items) -> Ledger:
    """``history`` by kind."""
    kinds = [field.replace("_", "-") for field in Ledger._fields]
    return Ledger(*(frozenset(item[1] for item in history if item[0] == kind) for kind in kinds))


def number(id: Id) -> int:
    """The product's ids can be anything; here they are numbers."""
    assert isinstance(id, int)
    return id


def numbers(ids: Iterable[Id]) -> tuple[int, ...]:
    """``ids`` in order: a set that can be told, compared and sorted with its like."""
    return tuple(sorted(map(number, ids)))


def _grown(items: Items, more: Iterable[Item]) -> Items:
    return items if items.issuperset(more := tuple(more)) else items.union(more)


@lru_cache(maxsize=1 << 12)
def _mark(inc: int, peer_inc: int, closed: int, settled: int, restoring: bool) -> Mark:
    return Mark(inc, peer_inc, closed, settled, restoring)


@lru_cache(maxsize=1 << 12)
def _live(rows: frozenset[tuple[Op, Status]]) -> frozenset[Op]:
    return frozenset(op for op, status in rows if status is Status.LIVE)
