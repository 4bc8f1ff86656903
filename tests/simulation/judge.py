"""Judges each answer that a client got, by what the ledger saw while the client waited.

An answer is right if it was true at some moment between its request and itself (two databases have no common
moment: it is a moment for each side), and if what it says for ever holds for ever; the ledger watches the latter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from tally.gateway import outcome
from tally.gateway.read import NoSuchEntity, Page
from tally.gateway.status import Operation as Status
from tally.gateway.status import State
from tally.protocol.relationship import Side
from tests.simulation.history import History, Property
from tests.simulation.ledger import Ledger, Operation
from tests.simulation.plan import Settings

#: How much later than its deadline an answer may come.
GRACE_S = 0.5

#: Settings that keep void rows for less make a side forget why it is dead while gateways still ask.
REMEMBERED_MS = 30_000


@dataclass(eq=False, slots=True)
class Request:
    """A client's request to a gateway, and the while in which it was answered."""

    number: int
    kind: str
    start: int
    started_s: float
    left: UUID | None = None
    right: UUID | None = None
    end: int | None = None
    answer: Any = None

    @property
    def answered(self) -> bool:
        return self.end is not None


class Judge:
    """Compares answers with the ledger."""

    def __init__(self, history: History, ledger: Ledger, settings: Settings) -> None:
        self._history = history
        self._ledger = ledger
        self._settings = settings
        self._deadline_s = settings.request_deadline_s
        self._cancels: list[Request] = []

    def asked(self, request: Request) -> None:
        if request.kind == "cancel":
            self._cancels.append(request)

    def answered(self, request: Request) -> None:
        if self._took_s(request) > self._deadline_s + GRACE_S:
            self._violate(Property.TIME, request, f"it took {self._took_s(request):.3f} s")
        self._history.count(f"{request.kind}: {_label(request.answer)}")

    # -- create

    def create(self, request: Request) -> None:
        """Every operation that the request tried and that it doesn't answer with is refused."""
        answer, mine = request.answer, self._ledger.by_request.get(request.number, [])
        if len(mine) > 1:
            self._history.count("creates with several attempts")
        for operation in mine:
            if operation.id != getattr(answer, "op", None):
                self._ledger.refuse(operation, f"request {request.number}: {_label(answer)}")
        self._once(request, mine)
        match answer:
            case outcome.Created(op) | outcome.Unknown(op):
                self._own(request, op, mine, created=isinstance(answer, outcome.Created))
            case outcome.Already(op):
                operation = self._ledger.operation(op)
                self._shown(request, operation, Property.I1)
                self._of_pair(request, operation)
            case outcome.NotFound(sides):
                self._absent(request, sides)
            case outcome.Full():
                self._full(request)

    def _once(self, request: Request, mine: list[Operation]) -> None:
        """A request brings about one relation at most: one that somebody cancelled is not made again."""
        born = [operation for operation in mine if operation.born]
        if len(born) > 1:
            self._violate(Property.I6, request, f"it made {[operation.id for operation in born]}, one after the other")
        if born and born[0].refused:
            self._denied(request, born[0])

    def _denied(self, request: Request, operation: Operation) -> None:
        """It existed, and was refused after all: somebody ended it before its request was answered.

        To be told "not found" after one's entity was deleted is right. A cancel proves that it existed, unless
        the gateway could not hear of it any more.
        """
        self._history.count(f"refused after all: {_label(request.answer)}, ended by {operation.ended}")
        in_time = self._took_s(request) < self._deadline_s - GRACE_S / 5
        if operation.ended == "cancel" and in_time and self._settings.void_keep_ms >= REMEMBERED_MS:
            self._violate(Property.I2, request, f"{operation.id} existed until it was cancelled, and is denied")

    def _own(self, request: Request, op: UUID, mine: list[Operation], *, created: bool) -> None:
        operation = self._ledger.operation(op)
        if operation.request != request.number:
            self._violate(Property.TRUE, request, f"{op} is of another request")
        if created and operation not in mine:
            self._violate(Property.I1, request, f"{op} was never recorded")
        if created:
            self._shown(request, operation, Property.I1)
            self._of_pair(request, operation)

    # -- cancel

    def cancel(self, request: Request) -> None:
        match request.answer:
            case outcome.Cancelled(op):
                operation = self._ledger.operation(op)
                operation.acknowledged = True
                self._shown(request, operation, Property.I6)
                self._of_pair(request, operation)
                if not any(self._ledger.dead(operation, side) for side in Side):
                    self._violate(Property.I6, request, f"no side is dead for {op}")
            case outcome.NotFound(sides):
                self._absent(request, sides)
            case outcome.NotRelated():
                for operation in self._ledger.operations.values():
                    if self._is_of_pair(request, operation) and operation.throughout(request.start, request.end or 0):
                        self._violate(Property.TRUE, request, f"{operation.id} was live at both sides all the while")

    def nothing_else_was_cancelled(self) -> None:
        """Whatever CANCEL ended, somebody wanted to end: by that very operation, if the answer named one."""
        for operation in self._ledger.operations.values():
            if operation.ended == "cancel" and not any(self._meant(cancel, operation) for cancel in self._cancels):
                self._history.violate(Property.I6, f"{operation.id} was cancelled, and nobody asked for it")

    def _meant(self, request: Request, operation: Operation) -> bool:
        if not request.answered:
            end = self._history.now
            return self._is_of_pair(request, operation) and operation.at_some_moments(request.start, end)
        return getattr(request.answer, "op", None) == operation.id

    # -- read

    def page(self, request: Request, by: Side, entity: UUID, after: UUID | None, limit: int) -> None:
        page = request.answer
        if isinstance(page, NoSuchEntity):
            return self._was(request, by, entity, False)
        assert isinstance(page, Page)
        ops = [UUID(op) for op, _, _ in page.items]
        until = UUID(page.next) if page.next else None
        if ops != sorted(set(ops)) or len(ops) > limit or any(after is not None and op <= after for op in ops):
            self._violate(Property.TRUE, request, f"the page isn't one: after {after}, limit {limit}: {page}")
        if until is not None and ((after is not None and until <= after) or (ops and until < ops[-1])):
            self._violate(Property.TRUE, request, f"the next page begins before the end of this one: {page}")
        if {missing.side for missing in page.missing} == set(Side):
            return None
        for missing in page.missing:
            return self._part(request, missing.side.peer, ops)
        self._was(request, by, entity, True)
        self._whole(request, by, entity, after, until, page)
        return None

    def _whole(
        self, request: Request, by: Side, entity: UUID, after: UUID | None, until: UUID | None, page: Page
    ) -> None:
        """Nothing is shown that wasn't there, and nothing is missing that was there all the while."""
        shown = {UUID(op): UUID(other) for op, other, _ in page.items}
        for id, card in ((str(entity), page.entity), *((other, card) for _, other, card in page.items)):
            if card is None or id.encode() not in card:
                self._violate(Property.TRUE, request, f"{card!r} is shown as {id}")
        for op, other in shown.items():
            operation = self._ledger.operation(op)
            self._shown(request, operation, Property.I7)
            if _ends(operation, by) != (entity, other):
                self._violate(Property.TRUE, request, f"{op} is not of {entity} and {other}")
        for op, operation in self._ledger.operations.items():
            if (
                _ends(operation, by)[0] == entity
                and op not in shown
                and (after is None or op > after)
                and (until is None or op <= until)
                and operation.throughout(request.start, request.end or 0)
            ):
                self._violate(Property.I1, request, f"{op} was live at both sides all the while, and isn't shown")

    def _part(self, request: Request, side: Side, ops: list[UUID]) -> None:
        """One side didn't answer: what the other one held is shown."""
        self._history.count("reads of one side only")
        for op in ops:
            if not self._ledger.operation(op).lives[side].at_some_moment(request.start, request.end or 0):
                self._violate(Property.I7, request, f"{op} is shown, and the {side} side didn't hold it")

    # -- operation status

    def status(self, request: Request) -> None:
        answer = request.answer
        assert isinstance(answer, Status)
        operation = self._ledger.operation(answer.op)
        dead = any(self._ledger.dead(operation, side) for side in Side)
        match answer.state:
            case State.DONE:
                self._shown(request, operation, Property.I1)
            case State.REFUSED | State.CANCELLED | State.GONE:
                if not dead:
                    self._violate(Property.I2, request, f"{answer.op} is {answer.state}, and no side is dead for it")
                if answer.state is State.REFUSED and operation.existed:
                    self._violate(Property.I2, request, f"{answer.op} is refused, and existed")
            case State.UNDECIDED:
                if operation.throughout(request.start, request.end or 0):
                    self._violate(Property.TRUE, request, f"{answer.op} is undecided, and existed all the while")

    # -- pieces

    def _took_s(self, request: Request) -> float:
        return self._history.entries[request.end or 0].time_s - request.started_s

    def _shown(self, request: Request, operation: Operation, property: Property) -> None:
        if not operation.at_some_moments(request.start, request.end or 0):
            self._violate(property, request, f"{operation.id} was not live at both sides meanwhile: {operation.lives}")

    def _is_of_pair(self, request: Request, operation: Operation) -> bool:
        return (operation.left, operation.right) == (request.left, request.right)

    def _of_pair(self, request: Request, operation: Operation) -> None:
        if not self._is_of_pair(request, operation):
            self._violate(Property.TRUE, request, f"{operation.id} is of another pair")

    def _absent(self, request: Request, sides: tuple[Side, ...]) -> None:
        for side in sides:
            entity = request.left if side is Side.LEFT else request.right
            assert entity is not None
            self._was(request, side, entity, False)

    def _was(self, request: Request, side: Side, entity: UUID, existing: bool) -> None:
        timeline = self._ledger.entities[side].get(entity)
        if timeline is None or not timeline.had(existing, request.start, request.end or 0):
            self._violate(Property.TRUE, request, f"{entity} did{'' if existing else ' not'} exist, it is said")

    def _full(self, request: Request) -> None:
        assert request.right is not None
        timeline = self._ledger.full.get(request.right)
        if timeline is None or not timeline.had(True, request.start, request.end or 0):
            self._violate(Property.TRUE, request, f"{request.right} had a seat all the while")

    def _violate(self, property: Property, request: Request, what: str) -> None:
        self._history.violate(property, f"request {request.number} ({request.kind}: {_label(request.answer)}): {what}")


def _ends(operation: Operation, by: Side) -> tuple[UUID | None, UUID | None]:
    ends = (operation.left, operation.right)
    return ends if by is Side.LEFT else (ends[1], ends[0])


def _label(answer: Any) -> str:
    if isinstance(answer, Status):
        return answer.state.value
    if isinstance(answer, Page) and answer.missing:
        return "Page without " + " and ".join(missing.side.value for missing in answer.missing)
    return type(answer).__name__
