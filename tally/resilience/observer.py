"""Who wants to know what happened: the chassis, which makes metrics and log lines of it."""

from __future__ import annotations

from typing import Protocol

from tally.resilience.breaker import Cause, State
from tally.resilience.retry import Failure


class Observer(Protocol):
    """Is told what happened, to count it and log it; must not raise and must not wait.

    `outcome` is "success", "business" or the failure's name.
    """

    def attempted(self, peer: str, kind: str, outcome: str, duration_s: float) -> None: ...

    def retried(self, peer: str, kind: str, failure: Failure, delay_s: float) -> None: ...

    def budget_exhausted(self, peer: str, kind: str) -> None: ...

    def breaker_moved(self, peer: str, kind: str, old: State, new: State, cause: Cause) -> None: ...

    def breaker_would_open(self, peer: str, kind: str, cause: Cause) -> None: ...

    def breaker_rejected(self, peer: str, kind: str, state: State) -> None: ...

    def bulkhead_queued(self, peer: str, kind: str, waited_s: float) -> None: ...

    def bulkhead_rejected(self, peer: str, kind: str) -> None: ...


class Unobserved:
    """An observer that looks away; also the base for one that wants only some events."""

    def attempted(self, peer: str, kind: str, outcome: str, duration_s: float) -> None:
        pass

    def retried(self, peer: str, kind: str, failure: Failure, delay_s: float) -> None:
        pass

    def budget_exhausted(self, peer: str, kind: str) -> None:
        pass

    def breaker_moved(self, peer: str, kind: str, old: State, new: State, cause: Cause) -> None:
        pass

    def breaker_would_open(self, peer: str, kind: str, cause: Cause) -> None:
        pass

    def breaker_rejected(self, peer: str, kind: str, state: State) -> None:
        pass

    def bulkhead_queued(self, peer: str, kind: str, waited_s: float) -> None:
        pass

    def bulkhead_rejected(self, peer: str, kind: str) -> None:
        pass
