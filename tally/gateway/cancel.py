"""Cancels a relation: finds its operation, then CANCEL at both sides until both are dead for it.

Assumes that a cancel names an operation, never a pair, so a late one can't hit the pair's next operation.
"""

from __future__ import annotations

import asyncio
from uuid import UUID

from tally.chassis.clock import Clock
from tally.gateway import outcome
from tally.gateway.evidence import gather
from tally.gateway.observer import Observer
from tally.gateway.participants import Participants
from tally.halves.peer import Failed
from tally.protocol import gateway as protocol
from tally.protocol import messages as wire
from tally.protocol.gateway import SILENT, Dead, Evidence
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

_MARGIN_S = 0.01
_PAUSE_S = 0.02
#: Of the time that is left, what finding the operation may take.
_FIND_SHARE = 0.5


class Canceller:
    """Cancels relations at both participants."""

    def __init__(self, participants: Participants, clock: Clock, observer: Observer) -> None:
        self._participants = participants
        self._clock = clock
        self._observer = observer

    async def find(self, left: UUID, right: UUID, deadline: Deadline) -> UUID | outcome.CancelOutcome:
        """The operation that relates the pair, live at both sides; or why there is none to speak of."""
        pair = wire.PairItem(left, right)
        tickets = {side: self._participants[side].find.submit(pair, deadline) for side in Side}
        found = await gather(tickets, self._left_s(deadline) * _FIND_SHARE)
        for side, told in found.items():
            if isinstance(told, Failed):
                return outcome.Unavailable(self._participants[side].service, told.reason, told.retry_after_s)
        missing = tuple(side for side in Side if not found[side].entity)
        if missing:
            return outcome.NotFound(missing)
        op: UUID | None = found[Side.LEFT].op
        if op is None or op != found[Side.RIGHT].op:
            return outcome.NotRelated()
        return op

    async def cancel(self, left: UUID, right: UUID, deadline: Deadline) -> outcome.CancelOutcome:
        """End the relation of the pair; done at two acknowledgements, or with one at the deadline."""
        started_s = self._clock.monotonic_s()
        with self._observer.span("fan_out", operation="cancel") as span:
            found = await self.find(left, right, deadline)
            result = await self._cancel(found, deadline) if isinstance(found, UUID) else found
            if isinstance(result, outcome.Cancelled):
                self._observer.told(result.op, "cancelled", left, right)
            label = _label(result)
            span.set(outcome=label, operation_id=getattr(result, "op", None))
        self._observer.fanned_out("cancel", label, self._clock.monotonic_s() - started_s)
        return result

    async def _cancel(self, op: UUID, deadline: Deadline) -> outcome.Cancelled | outcome.Unknown:
        evidence: dict[Side, Evidence] = {Side.LEFT: SILENT, Side.RIGHT: SILENT}
        while True:
            expired = self._left_s(deadline) <= _MARGIN_S
            match protocol.cancel(evidence[Side.LEFT], evidence[Side.RIGHT], expired=expired):
                case protocol.Refused():
                    return outcome.Cancelled(op)
                case protocol.Unknown():
                    return outcome.Unknown(op)
                case None:
                    await self._send(op, evidence, deadline)

    async def _send(self, op: UUID, evidence: dict[Side, Evidence], deadline: Deadline) -> None:
        silent = [side for side in Side if evidence[side] is SILENT]
        tickets = {side: self._participants[side].cancel.submit(op, deadline) for side in silent}
        for side, told in (await gather(tickets, self._left_s(deadline))).items():
            # (There is no other answer to CANCEL than "dead": whoever gives one has said nothing.)
            dead = not isinstance(told, Failed) and isinstance(told.evidence, Dead)
            self._observer.called("cancel", self._participants[side].service, "dead" if dead else "silent")
            if dead:
                evidence[side] = told.evidence
            else:
                await asyncio.sleep(min(_PAUSE_S, self._left_s(deadline)))

    def _left_s(self, deadline: Deadline) -> float:
        return deadline.left_s(self._clock.monotonic_s())


def _label(result: outcome.CancelOutcome) -> str:
    match result:
        case outcome.Cancelled():
            return "done"
        case outcome.Unknown():
            return "unknown"
        case _:
            return "refused"
