"""A settler's observer that moves the service's metrics."""

from __future__ import annotations

from tally.chassis.signals import Signals
from tally.protocol.relationship import Relationship


class Observed:
    """The signals of one relationship's settler; counters begin at 0."""

    def __init__(self, signals: Signals, relationship: Relationship) -> None:
        self._signals = signals
        self.span = signals.span
        name = relationship.name
        signals.settled_total.initialise(relationship=[name], outcome=["confirmed", "voided", "forwarded"])
        signals.lone_halves.initialise(relationship=[name])
        signals.invariant_violations_total.initialise(invariant=["mark-order"])

    def settled(self, relationship: str, outcome: str, count: int) -> None:
        self._signals.settled_total(relationship, outcome).inc(count)

    def lag(self, relationship: str, seconds: float) -> None:
        self._signals.settlement_lag_seconds(relationship).set(seconds)

    def lone_halves(self, relationship: str, count: int) -> None:
        self._signals.lone_halves(relationship).set(count)

    def violated(self, invariant: str) -> None:
        self._signals.invariant_violations_total(invariant).inc()

    def round_ended(self, relationship: str, outcome: str, seconds: float) -> None:
        pass
