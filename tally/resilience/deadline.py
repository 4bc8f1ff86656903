"""The instant after which nobody waits for the answer any more.

A deadline is a point on *this* process's monotonic clock. Processes share no clock, so what travels is how
much is left: the header `X-Deadline-Ms`, in whole milliseconds, re-read against the receiver's own clock on
arrival (as gRPC does with `grpc-timeout`: a duration on the wire, an instant in the process). The time on
the wire is therefore given twice; it errs by one network crossing, never by a difference between wall
clocks.

Assumes `now_s` comes from one monotonic clock per process (`time.monotonic` or the loop's `time`).
"""

from __future__ import annotations

import math
from typing import Final, Self

from msgspec import Struct

HEADER: Final = "X-Deadline-Ms"

# More digits than this is not a duration that anybody meant (11 days); refusing them also keeps int() cheap.
_DIGITS_MAX: Final = 9


class Deadline(Struct, frozen=True, order=True):
    """A point on the monotonic clock, in seconds."""

    at_s: float

    def __post_init__(self) -> None:
        # NaN would compare false with everything: a deadline that is neither expired nor has time left.
        if math.isnan(self.at_s):
            raise ValueError("a deadline cannot be NaN")

    @classmethod
    def after(cls, seconds: float, now_s: float) -> Self:
        """The deadline `seconds` from now."""
        return cls(now_s + seconds)

    def left_s(self, now_s: float) -> float:
        """Seconds left, 0.0 once it has passed; never negative."""
        return max(0.0, self.at_s - now_s)

    def expired(self, now_s: float) -> bool:
        """True from the instant itself on, so that `expired` is exactly `left_s == 0`."""
        return now_s >= self.at_s

    def earlier(self, other: Deadline) -> Deadline:
        """The one of the two that comes first: a caller may shorten a deadline, never lengthen it."""
        return self if self.at_s <= other.at_s else other

    def header(self, now_s: float) -> str:
        """What to send as `X-Deadline-Ms`.

        Rounded down: a callee that believes it has more time than its caller works for nobody.
        """
        return str(min(int(self.left_s(now_s) * 1000), 10**_DIGITS_MAX - 1))

    @classmethod
    def from_header(cls, value: str, now_s: float) -> Self | None:
        """The deadline that a received `X-Deadline-Ms` means; None where it is not a number of milliseconds.

        "0" is a deadline, and an expired one: late work is refused, not done without a limit.
        """
        digits = value.strip(" \t")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= _DIGITS_MAX):
            return None
        return cls(now_s + int(digits) / 1000)

    def __repr__(self) -> str:
        return f"<Deadline at {self.at_s:.3f} s>"
