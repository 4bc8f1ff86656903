"""The clients: each does its steps one after the other, and has every answer judged.

A client's request is a task in its gateway's process. If that process dies, or the client hangs up, there is no
answer, and nothing is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import UUID

from tally.gateway.read import NoSuchEntity
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline
from tests.simulation.database import Database
from tests.simulation.history import History
from tests.simulation.judge import Judge, Request
from tests.simulation.ledger import Ledger
from tests.simulation.plan import Ask, Cancel, Create, Delete, Make, Read, Resize, Settings, Step
from tests.simulation.processes import GONE, Host
from tests.simulation.programs import Gateway

#: What a gateway does for one request.
Work = Callable[[Gateway, Deadline], Coroutine[Any, Any, object]]

#: Pages that one read follows; more would be a cursor that doesn't move.
_PAGES_MAX = 200


class Office:
    """What clients call: the gateways, and the owners of the entities."""

    def __init__(
        self,
        settings: Settings,
        history: History,
        ledger: Ledger,
        gateways: list[Host],
        owners: dict[Side, Host],
        databases: dict[Side, Database],
    ) -> None:
        self.settings = settings
        self.judge = Judge(history, ledger, settings)
        self.told: list[UUID] = []  # operations that clients were told of
        self._history = history
        self._ledger = ledger
        self._gateways = gateways
        self._owners = owners
        self._databases = databases
        self._requests = 0

    async def run(self, steps: list[Step]) -> None:
        """One client."""
        for step in steps:
            await asyncio.sleep(step.pause_s)
            await self.do(step)

    async def do(self, step: Step) -> Any:
        """Do one step; returns the (last) answer, or GONE."""
        host = self._gateways[step.gateway]
        match step.action:
            case Create(left, right):
                return await self._create(host, left, right, step.give_up_s)
            case Cancel(left, right):
                return await self._cancel(host, left, right, step.give_up_s)
            case Read(by, entity, limit):
                return await self._read(host, by, entity, limit, step.give_up_s)
            case Ask(back):
                return await self.ask(host, self.told[-back], step.give_up_s) if len(self.told) >= back else GONE
            case Make(side, entity):
                seats = self.settings.seats[entity] if side is Side.RIGHT else None
                return self._at_owner(side, lambda database: database.make(entity_id(side, entity), seats))
            case Delete(side, entity):
                return self._at_owner(side, lambda database: database.delete(entity_id(side, entity)))
            case Resize(right, seats):
                return self._at_owner(Side.RIGHT, lambda database: database.resize(right_id(right), seats))

    def _at_owner(self, side: Side, change: Callable[[Database], bool]) -> object:
        """A transaction of the owning service; the halves' part in it is the store's."""
        return change(self._databases[side]) if self._owners[side].up else GONE

    async def _create(self, host: Host, left: int, right: int, give_up_s: float | None) -> Any:
        request = self._request("create", host, left_id(left), right_id(right))

        async def work(gateway: Gateway, deadline: Deadline) -> object:
            return await gateway.creator.create(left_id(left), right_id(right), deadline)

        await self._ask(request, host, work, give_up_s)
        if request.answered:
            self.judge.create(request)
        return request.answer

    async def _cancel(self, host: Host, left: int, right: int, give_up_s: float | None) -> Any:
        request = self._request("cancel", host, left_id(left), right_id(right))

        async def work(gateway: Gateway, deadline: Deadline) -> object:
            return await gateway.canceller.cancel(left_id(left), right_id(right), deadline)

        await self._ask(request, host, work, give_up_s)
        if request.answered:
            self.judge.cancel(request)
        return request.answer

    async def _read(self, host: Host, by: Side, number: int, limit: int, give_up_s: float | None) -> Any:
        """Follow ``next`` to the end; the answers, page by page."""
        entity = entity_id(by, number)
        pages: list[object] = []
        after = None
        while len(pages) < _PAGES_MAX:
            request = self._request("read", host, *((entity, None) if by is Side.LEFT else (None, entity)))
            work = _page(by, entity, after, limit)
            await self._ask(request, host, work, give_up_s)
            if not request.answered:
                return GONE
            self.judge.page(request, by, entity, after, limit)
            pages.append(request.answer)
            cursor = getattr(request.answer, "next", None)
            if cursor is None:
                break
            after = UUID(cursor)
        return pages

    async def ask(self, host: Host, op: UUID, give_up_s: float | None = None) -> Any:
        """GET operation."""
        request = self._request("status", host)

        async def work(gateway: Gateway, deadline: Deadline) -> object:
            return await gateway.status.operation(op, deadline)

        await self._ask(request, host, work, give_up_s)
        if request.answered:
            self.judge.status(request)
        return request.answer

    # -- any request

    def _request(self, kind: str, host: Host, left: UUID | None = None, right: UUID | None = None) -> Request:
        self._requests += 1
        ends = [str(end) for end in (left, right) if end is not None]
        moment = self._history.note(host.name, f"#{self._requests} {kind}", *ends)
        request = Request(self._requests, kind, moment, self._history.loop.time(), left, right)
        self.judge.asked(request)
        return request

    async def _ask(self, request: Request, host: Host, work: Work, give_up_s: float | None) -> None:
        """Have ``work`` done in the gateway's process; without an answer the request stays unanswered."""
        request.answer = GONE
        if host.up:
            deadline = Deadline.after(self.settings.request_deadline_s, host.clock.monotonic_s())
            try:
                async with asyncio.timeout(give_up_s):
                    request.answer = await host.process.serve(work(host.process.program, deadline), request.number)
            except TimeoutError:
                self._history.note(host.name, f"#{request.number} the client hangs up")
        if request.answer is GONE:
            self._history.count(f"{request.kind}: no answer")
            return
        request.end = self._history.note(host.name, f"#{request.number} answers", request.answer)
        if (op := getattr(request.answer, "op", None)) is not None and request.kind != "status":
            self.told.append(op)
        self.judge.answered(request)


def _page(by: Side, entity: UUID, after: UUID | None, limit: int) -> Work:
    async def work(gateway: Gateway, deadline: Deadline) -> object:
        try:
            return await gateway.reader.page(by, entity, after, limit, deadline)
        except NoSuchEntity as nothing:
            return nothing

    return work


def left_id(number: int) -> UUID:
    return UUID(int=(0xAAAA << 112) | number)


def right_id(number: int) -> UUID:
    return UUID(int=(0xEEEE << 112) | number)


def entity_id(side: Side, number: int) -> UUID:
    return left_id(number) if side is Side.LEFT else right_id(number)
