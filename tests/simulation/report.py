"""What people read: a failure from its seed to its smallest history, and what happened in many runs."""

from __future__ import annotations

from collections import Counter

from tests.simulation.shrink import Shrinker
from tests.simulation.world import Result, run

#: More of a history than this is no help.
_LINES_MAX = 400


def explain(failed: Result, runs_max: int = 400) -> str:
    """The failure, shrunk, with everything that's needed to see it again."""
    shrinker = Shrinker(failed, run, runs_max)
    smallest = shrinker.shrink()
    seed, before, after = failed.plan.settings.seed, len(failed.plan.entries), len(smallest.plan.entries)
    return "\n".join(
        [
            f"seed {seed}: {failed.violation}",
            f"  see all of it: python -m tests.simulation --seed {seed} -v",
            f"shrunk from {before} entries to {after} in {shrinker.runs} runs: {smallest.violation}",
            "",
            "plan",
            str(smallest.plan),
            "",
            "history",
            *_lines(smallest),
        ]
    )


def _lines(result: Result) -> list[str]:
    lines = str(result.history).splitlines()
    cut = len(lines) - _LINES_MAX
    return lines if cut <= 0 else [f"({cut} lines before)", *lines[cut:]]


def counted(counts: Counter[str]) -> str:
    """What really happened, and how often."""
    return "\n".join(f"{count:>9,}  {what}" for what, count in sorted(counts.items()))
