"""How many retries are too many: at most a share of the calls, plus a small floor.

Retries multiply load just when a peer can bear it least: with two retries each, a failing peer gets three
times its traffic. A budget shared by all calls to a peer bounds that at `1 + ratio`, whatever each call
would like. The shape is Finagle's `RetryBudget` (a bucket that every call pays into and every retry draws
from, whose deposits expire after a window, plus a reserve so that rare callers may retry at all); the ratio
is the 10 % per client of Google's SRE book, chapter "Handling Overload".

Held in every window that ends now: retries <= ratio * calls + floor_per_s * window_s. Cutting a long run
into such windows from its end gives the bound for the run: ratio * calls, plus one floor for each window it
spans.
"""

from __future__ import annotations

import msgspec

from tally.resilience.window import SlidingSums


class BudgetSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`ratio` 0.1 lets one call in ten be a retry; `floor_per_s` is for callers too rare to earn any."""

    ratio: float = 0.1
    floor_per_s: float = 0.2
    window_s: int = 10

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError("ratio must be from 0 to 1")
        if self.floor_per_s < 0:
            raise ValueError("floor_per_s must be 0 or more")
        if self.window_s < 1:
            raise ValueError("window_s must be 1 or more")


class RetryBudget:
    """Shared by all calls to one peer. Assumes one thread."""

    __slots__ = ("_settings", "_window")

    def __init__(self, settings: BudgetSettings) -> None:
        self._settings = settings
        self._window = SlidingSums(settings.window_s, counters=2)

    def called(self, now_s: float) -> None:
        """A call begins (its first attempt; a retry is not a call)."""
        self._window.add(now_s, 1, 0)

    def try_spend(self, now_s: float) -> bool:
        """Takes one retry out of the budget; False if none is left, and then nothing is taken."""
        if self.balance(now_s) < 1 - 1e-9:  # so that ten calls at 0.1 earn one retry, not 0.9999…
            return False
        self._window.add(now_s, 0, 1)
        return True

    def balance(self, now_s: float) -> float:
        """Retries that could be made now. Negative when the calls that earned them have left the window."""
        calls, retries = self._window.sums(now_s)
        settings = self._settings
        earned = settings.ratio * calls + settings.floor_per_s * settings.window_s
        return earned - retries

    def ratio(self, now_s: float) -> float:
        """Retries per call in the window: what `retry_budget_ratio` shows. 0.0 without calls."""
        calls, retries = self._window.sums(now_s)
        return retries / calls if calls else 0.0

    def __repr__(self) -> str:
        ratio, floor_per_s = self._settings.ratio, self._settings.floor_per_s
        return f"<RetryBudget {ratio:.0%} of calls + {floor_per_s:g}/s over {self._window.window_s} s>"
