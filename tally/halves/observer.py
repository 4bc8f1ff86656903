"""A settler's observer that moves the service's metrics."""

from __future__ import annotations

from tally.chassis.clock import Clock
from tally.chassis.signals import Signals
from tally.protocol.relationship import Relationship


class Observed:
    """The signals of one relationship's settler; counters begin at 0."""

    def __init__(self, signals: Signals, relationship: Relationship, clock: Clock) -> None:
        self._signals = signals
        self._clock = clock
        # Nothing is known to be settled yet. The lag grows from here until the first round has ended.
        self._settled_s = clock.monotonic_s()
        self.span = signals.span
        name = relationship.name
        signals.settled_total.initialise(relationship=[name], outcome=["confirmed", "voided", "forwarded"])
        signals.epochs_total.initialise(relationship=[name], outcome=["settled", "failed"])
        signals.lone_halves.initialise(relationship=[name])
        # Read when scraped: a settler that can't settle, or hangs, must not leave a small number standing.
        signals.settlement_lag_seconds(name).set_function(self._lag_s)
        signals.invariant_violations_total.initialise(invariant=["mark-order"])

    def settled(self, relationship: str, outcome: str, count: int) -> None:
        self._signals.settled_total(relationship, outcome).inc(count)

    def lag(self, relationship: str, seconds: float) -> None:
        self._settled_s = self._clock.monotonic_s() - seconds

    def _lag_s(self) -> float:
        return self._clock.monotonic_s() - self._settled_s

    def lone_halves(self, relationship: str, count: int) -> None:
        self._signals.lone_halves(relationship).set(count)

    def violated(self, invariant: str) -> None:
        self._signals.invariant_violations_total(invariant).inc()

    def round_ended(self, relationship: str, outcome: str) -> None:
        self._signals.epochs_total(relationship, outcome).inc()
