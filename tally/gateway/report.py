"""What the gateway tells the operation log of what it did: at best effort, many operations in one message.

A create must not wait for the log, nor fail for it: it leaves a tuple here, and an agent sends what has gathered every
100 ms. While the stream is away, or more comes than is kept, reports are dropped and counted. The log loses nothing by
it that is not told again: what was confirmed, cancelled or voided is told by its owner, from the outbox.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, TypeAlias
from uuid import UUID, uuid4

from tally.chassis import context
from tally.chassis.clock import Clock, utc
from tally.chassis.signals import Signals
from tally.messaging.event import NO_INCARNATION, Event
from tally.messaging.stream import EventRefused, Stream, StreamUnavailable
from tally.protocol.relationship import Relationship

_PERIOD_S: Final = 0.1
_KEPT_MAX: Final = 10_000
#: So that a message stays far below what the broker takes (1 MiB).
_ITEMS_MAX: Final = 1000
_ACK_S: Final = 2.0

#: Operation, state, when (Unix milliseconds), left, right, reason, and where the request came from.
_Note: TypeAlias = tuple[UUID, str, int, UUID, UUID, str | None, context.Context | None]


class Reporter:
    """An agent: `note` what happened; `run`, `run_once` send it."""

    def __init__(
        self, stream: Stream, relationship: Relationship, service: str, signals: Signals, clock: Clock
    ) -> None:
        self._stream = stream
        self._left, self._right = relationship.left.entity, relationship.right.entity
        self._source = f"/tally/{service}"
        self._clock = clock
        self._notes: list[_Note] = []
        signals.operation_reports_total.initialise(outcome=["sent", "dropped"])
        self._sent, self._dropped = signals.operation_reports_total("sent"), signals.operation_reports_total("dropped")

    def note(self, op: UUID, state: str, left: UUID, right: UUID, reason: str | None = None) -> None:
        """Costs next to nothing; everything else is done when it is sent."""
        if len(self._notes) < _KEPT_MAX:
            self._notes.append((op, state, self._clock.now_ms(), left, right, reason, context.current()))
        else:
            self._dropped.inc()

    async def run(self) -> None:
        try:
            while True:
                await asyncio.sleep(_PERIOD_S)
                await self.run_once()
        finally:
            await self.run_once()

    async def run_once(self) -> None:
        """Sends what there is, or drops it."""
        notes, self._notes = self._notes, []
        if not self._stream.connected:
            self._dropped.inc(len(notes))
            return
        for start in range(0, len(notes), _ITEMS_MAX):
            await self._send(notes[start : start + _ITEMS_MAX])

    async def _send(self, notes: Sequence[_Note]) -> None:
        try:
            await self._stream.publish(self._event(notes), timeout_s=_ACK_S)
        except (StreamUnavailable, EventRefused):
            self._dropped.inc(len(notes))
        else:
            self._sent.inc(len(notes))

    def _event(self, notes: Sequence[_Note]) -> Event:
        now_ms = self._clock.now_ms()
        return Event(
            id=uuid4(),
            source=self._source,
            type="operation.reported",
            time=utc(now_ms),
            subject=uuid4(),
            incarnation=NO_INCARNATION,
            entityversion=now_ms * 1000,
            data={"items": [self._item(*note) for note in notes]},
        )

    def _item(
        self,
        op: UUID,
        state: str,
        at_ms: int,
        left: UUID,
        right: UUID,
        reason: str | None,
        here: context.Context | None,
    ) -> dict[str, Any]:
        item: dict[str, Any] = {
            "operation": op,
            "state": state,
            "at": utc(at_ms),
            self._left: left,
            self._right: right,
        }
        if reason is not None:
            item["reason"] = reason
        if here is not None and here.actor:
            item["actor"] = here.actor
        if here is not None and here.sampled:
            item["traceparent"] = here.traceparent
        return item

    def __repr__(self) -> str:
        return f"<Reporter {len(self._notes)} notes>"
