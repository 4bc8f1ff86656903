"""One side: its transactions, each decided by the product and applied to a :class:`.world.Database`.

Assumes nothing about who sent a message. Every method is pure, and remembered: the explorer meets few
different databases in very many states.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

from tally.protocol import participant
from tally.protocol.participant import Answer, Checks, Decision, Message, Reason, Row, Snapshot, Status

from .rules import Care, Product, Repeats, Rules
from .scenarios import Scenario
from .world import RIGHT, Database, Item, Items, Op, Pair, numbers

Method = TypeVar("Method", bound=Callable[..., Any])


class Transaction(NamedTuple):
    """What one transaction made of a database, wrote to history, and answered."""

    database: Database
    history: tuple[Item, ...] = ()
    facts: tuple[Item, ...] = ()
    answer: Answer = Answer.NOTHING
    said: str = ""


def remembered(method: Method) -> Method:
    """Ask a pure method once for each list of arguments, which are given by place."""

    @wraps(method)
    def ask(self: Participant, *arguments: Any) -> Any:
        memory = self.memory[method]
        try:
            return memory[arguments]
        except KeyError:
            answer = memory[arguments] = method(self, *arguments)
            return answer

    return cast(Method, ask)


class Participant:
    """The transactions of one side (``x`` is LEFT or RIGHT) in one scenario."""

    def __init__(self, x: int, scenario: Scenario, rules: Rules) -> None:
        self.x = x
        self.scenario = scenario
        self.product: Product = rules.product
        self.care: Care = rules.care
        self.memory: dict[Callable[..., Any], dict[Any, Any]] = defaultdict(dict)

    # -- messages about one operation

    @remembered
    def record(self, database: Database, op: Op) -> Transaction:
        """RECORD(op), in one transaction."""
        return self._record(database, op, self.row(database, op))

    @remembered
    def record_in_flight(self, database: Database, op: Op) -> Transaction:
        """The commit of a RECORD that read ``closed`` long ago, when the epoch was still open."""
        status = database.status(op)
        return self._record(database, op, participant.row_of(status, op, closed=0))

    def _record(self, database: Database, op: Op, row: Row) -> Transaction:
        pair = self.scenario.pairs[op]
        checks = Checks(
            entity=pair in database.entities,
            taken=self.live_of(database, pair),
            seat=self.x != RIGHT or len(database.live) < self.scenario.seats,
        )
        decision = self.product.decide(Message.RECORD, row, database.mark, op, checks=checks)
        return self._applied(database, op, decision)

    @remembered
    def message(self, database: Database, message: Message, op: Op, inc: int | None = None) -> Transaction:
        """RESOLVE, KILL, CANCEL or ACK of ``op``; ``inc`` is the incarnation that KILL and ACK rest on."""
        row = self.row(database, op)
        decision = self.product.decide(message, row, database.mark, op, inc=inc)
        return self._applied(database, op, decision)

    # -- the settler's messages

    @remembered
    def close(self, database: Database, time: int) -> Database:
        close = self.product.close_right if self.x == RIGHT else self.product.close_left
        return database.marked(close(database.mark, time))

    def live_in(self, database: Database, since: int, time: int) -> frozenset[Op]:
        """What CLOSE lists: the live operations of the window."""
        return frozenset(op for op in database.live if since < op <= time)

    @remembered
    def settle(
        self, database: Database, since: int, time: int, matched: tuple[Op, ...], inc: int
    ) -> Transaction | None:
        """SETTLE, with what it confirms; None if it does not apply."""
        settled = self.product.settle(database.mark, since, time, matched, inc, database.live)
        if settled is None:
            return None
        mark, confirmed = settled
        events = [("confirmed", op) for op in confirmed]
        events += [("confirmed-dead", op) for op in confirmed if op not in database.live]
        return Transaction(database.marked(mark), tuple(events))

    # -- entities

    @remembered
    def delete_entity(self, database: Database, pair: Pair) -> Transaction:
        """The entity goes, and with it the live half that belongs to it."""
        op = self.live_of(database, pair)
        database = database._replace(entities=database.entities - {pair})
        if op is None:
            return Transaction(database)
        return self._applied(database, op, self.product.delete_entity(op, database.mark))

    # -- restores

    @remembered
    def rejoined(self, database: Database, inc: int) -> Database | None:
        """The intact side takes note of its peer's new incarnation, or refuses it."""
        mark = self.product.rejoin(database.mark, inc)
        return None if mark is None else database.marked(mark)

    @remembered
    def reconciled(self, database: Database, inc: int, live: tuple[Op, ...], closed: int, peer_inc: int) -> Transaction:
        """The restored side applies its peer's answer to REJOIN(inc)."""
        lost = {op for op in live if self.scenario.pairs[op] not in database.entities}
        rows = dict(database.rows)
        times = {op: op for op in {*rows, *live}}
        snapshot = Snapshot({op: op for op in live}, closed, peer_inc)
        outcome = self.product.reconcile(database.mark, rows, times, lost, snapshot, inc)
        after = database.marked(outcome.mark).drop(numbers(outcome.drop))
        for op in numbers(outcome.copy):
            after = after.put(op, Status.LIVE)
        for op in numbers(outcome.orphan):
            after = after.put(op, Status.CANCELLED)
        events = [("cancelled-event", op) for op in numbers(outcome.cancelled) if self.x == RIGHT]
        return Transaction(after, (*events, *(("ended", op) for op in numbers(outcome.orphan))))

    # -- what is read

    def row(self, database: Database, op: Op) -> Row:
        return participant.row_of(database.status(op), op, database.closed)

    def live_of(self, database: Database, pair: Pair) -> Op | None:
        """The live operation of ``pair`` here."""
        return min((op for op in database.live if self.scenario.pairs[op] == pair), default=None)

    @remembered
    def answers(self, database: Database, started: frozenset[Op]) -> Items:
        """All that this side would say if it were asked now, and that asking does not change."""
        if database.restoring:
            return frozenset()
        facts: list[Item] = []
        for op in started:
            if self.row(database, op) is not Row.OPEN:
                facts += self.message(database, Message.RESOLVE, op).facts
        return frozenset(facts)

    @remembered
    def repeated(self, database: Database, taken: Items) -> Items:
        """``taken`` facts of this side as it would repeat them now, in today's incarnations."""
        if database.restoring or self.care.repeats is Repeats.NOTHING:
            return frozenset()
        stored = self.care.repeats is Repeats.WHAT_WAS_STORED
        return frozenset(
            ("taken", self.x, op, other, database.inc, database.peer_inc)
            for _, x, op, other, inc, _ in taken
            if x == self.x
            and inc == database.inc
            and database.status(op) is Status.VOID
            and (stored or other in database.live)
        )

    @remembered
    def collected(self, database: Database) -> Database:
        """Without the void rows whose epoch is closed: the operation stays dead without them."""
        if database.restoring:
            return database
        return database.drop(self.void(database, closed_only=True))

    def void(self, database: Database, *, closed_only: bool) -> list[Op]:
        return [
            op
            for op, status in sorted(database.rows)
            if status is Status.VOID and (op <= database.closed or not closed_only)
        ]

    # -- inside

    def _applied(self, database: Database, op: Op, decision: Decision) -> Transaction:
        after = database if decision.write is None else database.put(op, decision.write)
        events: tuple[Item, ...] = ()
        if decision.cancelled and self.x == RIGHT:
            events = (("cancelled-event", op),)
        said = decision.answer.value + (f" ({decision.why.value})" if decision.why else "")
        return Transaction(after, events, self._facts(database, op, decision), decision.answer, said)

    def _facts(self, database: Database, op: Op, decision: Decision) -> tuple[Item, ...]:
        match decision.answer:
            case Answer.RECORDED:
                return (("recorded", self.x, op, database.inc, database.peer_inc),)
            case Answer.DEAD if decision.why is Reason.TAKEN:
                taken = ("taken", self.x, op, decision.other, database.inc, database.peer_inc)
                return (("dead", self.x, op, database.inc), taken)
            case Answer.DEAD:
                return (("dead", self.x, op, database.inc),)
            case _:
                return ()
