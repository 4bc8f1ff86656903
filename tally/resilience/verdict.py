"""What a call can come to, and what that says of the peer.

A caller's `classify` turns each outcome of an attempt into a `Verdict`. Two questions are kept apart: is
the peer ill (`judgement`, for the breaker), and what became of the message (`failure` and `nothing_done`,
for retries and for what the caller may conclude). A peer that answers 503 is ill, and yet may prove that it
did nothing.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tally.resilience.retry import Failure


class Judgement(StrEnum):
    """What an outcome says of the peer."""

    SUCCESS = "success"
    FAILURE = "failure"  # it is ill: connection errors, time-outs, 5xx, overload
    BUSINESS = "business"  # it works and said no (4xx): neither success nor failure


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of one attempt's outcome. Whether it may be tried again follows from `failure` (see `retry.py`).

    `nothing_done`: this outcome proves that this attempt had no effect.
    """

    judgement: Judgement
    failure: Failure | None = None
    retry_after_s: float | None = None
    nothing_done: bool = False

    @property
    def effect_unknown(self) -> bool:
        return self.failure is not None and not self.nothing_done


SUCCESS: Final = Verdict(Judgement.SUCCESS)
BUSINESS: Final = Verdict(Judgement.BUSINESS)
UNREACHABLE: Final = Verdict(Judgement.FAILURE, Failure.UNREACHABLE, nothing_done=True)
SILENT: Final = Verdict(Judgement.FAILURE, Failure.SILENT)
BROKEN: Final = Verdict(Judgement.FAILURE, Failure.BROKEN)


def overloaded(retry_after_s: float | None = None, *, nothing_done: bool = False) -> Verdict:
    """The peer, or something between, was too busy (503)."""
    return Verdict(Judgement.FAILURE, Failure.OVERLOADED, retry_after_s, nothing_done)


def verdict_of_error(error: Exception) -> Verdict:
    """For attempts that raise. Only what fails before anything is sent proves that nothing was done."""
    match error:
        case ConnectionRefusedError() | socket.gaierror():
            return UNREACHABLE
        case OSError():  # resets, broken pipes, and TimeoutError
            return SILENT
        case _:
            return BROKEN


@dataclass(frozen=True, slots=True)
class Withheld:
    """Not one byte was sent, in any attempt, and none will be. `retry_after_s`: when it makes sense again."""

    peer: str
    kind: str
    failure: Failure  # BREAKER_OPEN, BULKHEAD_FULL or DEADLINE_PASSED
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class TimedOut:
    """Sent, and no answer within the time that an attempt gets: it may have been carried out."""

    peer: str
    kind: str
    after_s: float
