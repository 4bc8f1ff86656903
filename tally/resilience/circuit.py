"""aiobreaker 1.2.0 without its clock; the only file that imports it.

aiobreaker gives the states, the consecutive count and the notification of changes. When to open and when to
probe is `breaker.py`'s to decide, so its storage never holds an opening time: aiobreaker looks at a wall
clock only where one is set. Outcomes are replayed into it (`told_success`, `told_failure`) after the call,
so it never holds the call's own error and can't put its own in that one's place.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiobreaker import (
    CircuitBreaker,
    CircuitBreakerError,
    CircuitBreakerListener,
    CircuitBreakerState,
)
from aiobreaker.storage.memory import CircuitMemoryStorage

__all__ = ["Circuit", "CircuitBreakerState"]


class _CallFailed(Exception):
    """Stands for the call's own error when aiobreaker is told of a failure."""


class Circuit(CircuitBreaker):  # type: ignore[misc]
    """aiobreaker's breaker, driven from outside. `entered` is told of every state it enters."""

    def __init__(self, consecutive_failures: int, entered: Callable[[CircuitBreakerState], None]) -> None:
        self.counted = CircuitMemoryStorage(CircuitBreakerState.CLOSED)
        super().__init__(
            fail_max=consecutive_failures or sys.maxsize,
            listeners=[_Watch(entered)],
            state_storage=self.counted,
        )

    def told_success(self) -> None:
        """Resets the consecutive count; closes it if it is half-open."""
        self.call(_succeed)

    def told_failure(self) -> None:
        """Adds to the consecutive count; opens it if that is one too many, or if it is half-open."""
        # The first is ours; the second is aiobreaker saying that it opened, which `entered` says too.
        with suppress(_CallFailed, CircuitBreakerError):
            self.call(_fail)

    def open(self) -> None:
        self._move(CircuitBreakerState.OPEN)

    def half_open(self) -> None:
        self._move(CircuitBreakerState.HALF_OPEN)

    def close(self) -> None:
        self._move(CircuitBreakerState.CLOSED)

    def _move(self, new: CircuitBreakerState) -> None:
        # aiobreaker's own methods stamp `utcnow`, and announce the state before they store it.
        self.counted.state = new
        self.state = new

    @property
    def opens_at(self) -> None:
        """aiobreaker puts this into its error; it would read the wall clock."""
        return None


class _Watch(CircuitBreakerListener):  # type: ignore[misc]
    def __init__(self, entered: Callable[[CircuitBreakerState], None]) -> None:
        self._entered = entered

    def state_change(self, breaker: Any, old: Any, new: Any) -> None:
        self._entered(new.state)


def _succeed() -> None:
    pass


def _fail() -> None:
    raise _CallFailed
