"""Who watches a gateway: an interface, nobody, and the service's signals.

Assumes that watching never fails and never waits.
"""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import structlog
from msgspec import Struct

from tally.chassis import context
from tally.chassis.clock import Clock, utc
from tally.chassis.metrics import exemplar
from tally.chassis.signals import Signals
from tally.chassis.spans import SpanBlock
from tally.gateway.report import Reporter
from tally.protocol.participant import Reason
from tally.protocol.relationship import Relationship, Side

log = structlog.get_logger()

#: So many compensations are remembered, for who looks.
_REMEMBERED_MAX: Final = 50


class Compensation(Struct, frozen=True):
    """A half that was undone, or that it was tried to undo."""

    at: datetime
    operation: UUID
    reason: str
    outcome: str
    trace_id: str | None


class Observer(Protocol):
    """What a gateway tells of its work."""

    def span(self, name: str, **attributes: Any) -> SpanBlock:
        """A span of ``tally.chassis.signals.SPANS`` around what follows."""
        ...

    def fanned_out(self, operation: str, outcome: str, seconds: float) -> None: ...

    def called(self, operation: str, service: str, outcome: str) -> None: ...

    def compensated(self, operation: str, reason: str, outcome: str, op: UUID) -> None:
        """A half was undone (or its undoing was tried), because of ``reason`` on the other side."""
        ...

    def told(self, op: UUID, state: str, left: UUID, right: UUID, reason: str | None = None) -> None:
        """What an attempt, or a cancel, came to."""
        ...

    def coalesced(self, message: str, service: str, size: int) -> None: ...

    def degraded(self, operation: str, service: str) -> None: ...


class Unobserved:
    """Nobody watches."""

    def span(self, name: str, **attributes: Any) -> Any:
        return nullcontext(self)

    def set(self, **attributes: Any) -> None: ...

    def fanned_out(self, operation: str, outcome: str, seconds: float) -> None: ...

    def called(self, operation: str, service: str, outcome: str) -> None: ...

    def compensated(self, operation: str, reason: str, outcome: str, op: UUID) -> None: ...

    def told(self, op: UUID, state: str, left: UUID, right: UUID, reason: str | None = None) -> None: ...

    def coalesced(self, message: str, service: str, size: int) -> None: ...

    def degraded(self, operation: str, service: str) -> None: ...


class Observed:
    """The service's metrics, spans and log; ``compensations`` are the last of them, the newest last."""

    def __init__(
        self, signals: Signals, relationship: Relationship, clock: Clock, reporter: Reporter | None = None
    ) -> None:
        self._reporter = reporter
        self._signals = signals
        self._clock = clock
        self.compensations: deque[Compensation] = deque(maxlen=_REMEMBERED_MAX)
        self.span = signals.span
        services = [relationship.end(side).service for side in Side]
        operations = ["create", "cancel", "read", "status"]
        signals.fanout_duration_seconds.initialise(operation=operations, outcome=["done", "refused", "unknown"])
        signals.fanout_calls_total.initialise(
            operation=operations, peer=services, outcome=["recorded", "dead", "found", "silent", "unsent"]
        )
        signals.compensations_total.initialise(
            operation=["create"],
            reason=[*(reason.value for reason in Reason), "dead", "unsent"],
            outcome=["dead", "silent", "stale"],
        )
        signals.degraded_reads_total.initialise(operation=["read"], peer=services)

    def fanned_out(self, operation: str, outcome: str, seconds: float) -> None:
        self._signals.fanout_duration_seconds(operation, outcome).observe(seconds, exemplar(context.current()))

    def called(self, operation: str, service: str, outcome: str) -> None:
        self._signals.fanout_calls_total(operation, service, outcome).inc()

    def compensated(self, operation: str, reason: str, outcome: str, op: UUID) -> None:
        self._signals.compensations_total(operation, reason, outcome).inc()
        here, at = context.current(), utc(self._clock.now_ms())
        self.compensations.append(Compensation(at, op, reason, outcome, None if here is None else here.trace_id))
        log.info("compensated", operation=str(op), reason=reason, outcome=outcome)

    def told(self, op: UUID, state: str, left: UUID, right: UUID, reason: str | None = None) -> None:
        if self._reporter is not None:
            self._reporter.note(op, state, left, right, reason)

    def coalesced(self, message: str, service: str, size: int) -> None:
        self._signals.batch_items(service, message).observe(size)

    def degraded(self, operation: str, service: str) -> None:
        self._signals.degraded_reads_total(operation, service).inc()
