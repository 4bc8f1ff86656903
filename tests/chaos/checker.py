"""The judge: all invariants of a history, which is all that it knows."""

from __future__ import annotations

# Importing them declares their invariants, in this order.
from tests.chaos import answers, at_the_end, while_running  # noqa: F401
from tests.chaos.history import History
from tests.chaos.lives import lives_of
from tests.chaos.verdict import INVARIANTS, Verdict


def check(history: History) -> list[Verdict]:
    """The verdict on each invariant."""
    lives = lives_of(history)
    return [judge(lives) for judge in INVARIANTS]
