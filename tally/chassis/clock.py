"""The two clocks of a process, as one argument.

Nothing below `main` reads `time` by itself: what needs a clock takes a `Clock`, so that a test or the simulation
can own it. `now_ms` is the wall clock (it names operations and dates rows; it may jump, and differs between
hosts); `monotonic_s` measures (deadlines, durations; it means nothing outside this process).
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970 (UTC)."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some instant of this process; never goes back."""
        ...


def utc(ms: int) -> datetime:
    """The moment of the wall clock, as a date."""
    return datetime.fromtimestamp(ms / 1000, UTC)


class SystemClock:
    """The clocks of the machine.

    `offset_ms` shifts the wall clock only: a chaos test gives one process a clock that is an hour wrong, which
    must not disturb deadlines.
    """

    __slots__ = ("offset_ms",)

    def __init__(self, offset_ms: int = 0) -> None:
        self.offset_ms = offset_ms

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self.offset_ms

    #: As it is: read a dozen times per request, a frame around it would cost more than it does.
    monotonic_s = staticmethod(time.monotonic)

    def __repr__(self) -> str:
        return f"<SystemClock {self.offset_ms:+d} ms>" if self.offset_ms else "<SystemClock>"
