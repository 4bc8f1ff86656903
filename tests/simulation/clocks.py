"""A host's clocks: the wall clock is wrong by as much as the plan says, the monotonic one starts anywhere.

Implements ``tally.chassis.clock.Clock`` on the loop's virtual time.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

#: The Unix time in milliseconds at which every simulation begins.
BEGINNING_MS = 1_800_000_000_000


@dataclass(slots=True)
class SkewedClock:
    loop: asyncio.AbstractEventLoop
    skew_ms: int = 0
    origin_s: float = 0.0

    def now_ms(self) -> int:
        return BEGINNING_MS + int(self.loop.time() * 1000) + self.skew_ms

    def monotonic_s(self) -> float:
        return self.origin_s + self.loop.time()

    def loop_time_s(self, monotonic_s: float) -> float:
        """The loop's time at which ``monotonic_s`` shows ``monotonic_s``."""
        return monotonic_s - self.origin_s
