"""May a failed call be tried again, and after how long?

A retry is worth its load only where all of these hold; the first that fails ends it:

1. the message is idempotent: doing it twice is doing it once;
2. the failure is one that another attempt can mend (the table `RETRYABLE`);
3. fewer than `retries_max` retries were made;
4. the wait (full jitter, on top of the peer's `Retry-After`) and one more attempt still fit the deadline:
   an answer that nobody waits for is pure load.

The fifth, the retry budget, is shared between calls and lives in `budget.py`.

Full jitter: `sleep = random_between(0, min(cap, base * 2 ** attempt))`, from M. Brooker, "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015.

Only one layer may retry. Three layers that each try three times send 27 calls into an overload.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Final

import msgspec

from tally.resilience.deadline import Deadline


class Failure(StrEnum):
    """Why there is no answer to use. The values are metric labels."""

    UNREACHABLE = "unreachable"  # no connection: not one byte was sent
    SILENT = "silent"  # sent, and no whole answer: time-out, reset, half a body. The effect is unknown
    OVERLOADED = "overloaded"  # the peer, or what it depends on, is too busy or down (503)
    BROKEN = "broken"  # the peer failed in its own way (500, an answer that cannot be read)
    BREAKER_OPEN = "breaker_open"  # withheld here
    BULKHEAD_FULL = "bulkhead_full"  # withheld here
    DEADLINE_PASSED = "deadline_passed"  # withheld here


# What is not in it is not tried again. BROKEN: the same message meets the same fault. BREAKER_OPEN and
# BULKHEAD_FULL: waiting inside the request is the queue that both exist to prevent; the caller is told when
# to come back. DEADLINE_PASSED: nobody waits.
RETRYABLE: Final = frozenset({Failure.UNREACHABLE, Failure.SILENT, Failure.OVERLOADED})


class RetrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """`retries_max` counts attempts after the first. 0 turns retrying off."""

    retries_max: int = 2
    backoff_base_s: float = 0.025
    backoff_cap_s: float = 0.25
    # An attempt that gets less time than this is not begun; about the fastest useful answer.
    attempt_min_s: float = 0.01

    def __post_init__(self) -> None:
        if self.retries_max < 0:
            raise ValueError("retries_max must be 0 or more")
        if not 0 <= self.backoff_base_s <= self.backoff_cap_s:
            raise ValueError("backoff_base_s must be from 0 to backoff_cap_s")
        if self.attempt_min_s < 0:
            raise ValueError("attempt_min_s must be 0 or more")


def next_delay(
    settings: RetrySettings,
    *,
    attempt: int,
    failure: Failure,
    idempotent: bool,
    retry_after_s: float | None,
    deadline: Deadline,
    now_s: float,
    random: Callable[[], float],
) -> float | None:
    """Seconds to wait before the next attempt, or None: do not try again.

    `attempt` is the number of attempts made so far (1 after the first). `random` gives values in [0, 1).
    """
    if not idempotent or failure not in RETRYABLE or attempt > settings.retries_max:
        return None
    delay_s = full_jitter(settings, attempt, random)
    if retry_after_s is not None:
        # Everybody who was told the same Retry-After would come back at the same instant: keep the jitter.
        delay_s += max(0.0, retry_after_s)
    if deadline.left_s(now_s) < delay_s + settings.attempt_min_s:
        return None
    return delay_s


def full_jitter(settings: RetrySettings, attempt: int, random: Callable[[], float]) -> float:
    """A wait drawn evenly from 0 to the exponential back-off of this attempt, in seconds."""
    # The exponent is bounded so that no float overflows; the cap is reached long before.
    backoff_s = math.ldexp(settings.backoff_base_s, min(attempt - 1, 32))
    return random() * min(settings.backoff_cap_s, backoff_s)
