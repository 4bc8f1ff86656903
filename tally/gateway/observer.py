"""Who watches a gateway: an interface, nobody, and the service's signals.

Assumes that watching never fails and never waits.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Protocol
from uuid import UUID

import structlog

from tally.chassis.signals import Signals, SpanBlock
from tally.protocol.participant import Reason
from tally.protocol.relationship import Relationship, Side

log = structlog.get_logger()


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

    def coalesced(self, message: str, service: str, size: int) -> None: ...

    def degraded(self, operation: str, service: str) -> None: ...


class Observed:
    """The service's metrics, spans and log."""

    def __init__(self, signals: Signals, relationship: Relationship) -> None:
        self._signals = signals
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
        self._signals.fanout_duration_seconds(operation, outcome).observe(seconds)

    def called(self, operation: str, service: str, outcome: str) -> None:
        self._signals.fanout_calls_total(operation, service, outcome).inc()

    def compensated(self, operation: str, reason: str, outcome: str, op: UUID) -> None:
        self._signals.compensations_total(operation, reason, outcome).inc()
        log.info("compensated", operation=str(op), reason=reason, outcome=outcome)

    def coalesced(self, message: str, service: str, size: int) -> None:
        self._signals.batch_items(service, message).observe(size)

    def degraded(self, operation: str, service: str) -> None:
        self._signals.degraded_reads_total(operation, service).inc()
