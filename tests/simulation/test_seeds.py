"""Two hundred seeds, attendances and talks in turn: nothing that must hold is ever broken, and everything happens."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.plan import Trouble
from tests.simulation.report import explain
from tests.simulation.world import plan_of, run

_SEEDS = 200
_BLOCK = 20

#: What the runs of this session met.
_counts: Counter[str] = Counter()
_seen: set[int] = set()

#: What the seeds must have met between them, or they say little.
_HAPPENED = (
    *(trouble.value for trouble in Trouble),
    "processes killed",
    "processes told to stop",
    "clocks that jumped",
    "connections refused",
    "batches of several items",
    "records after their epoch was closed",
    "fences",
    "refusals: not-found",
    "refusals: full",
    "refusals: taken",
    "refusals: too-early",
    "lone halves killed",
    "settler: voided",
    "settler: round failed",
    "halves cancelled",
    "halves of deleted entities",
    "cancels forwarded",
    "cancelled after confirmed",
    "void rows collected",
    "creates with several attempts",
    "create: Created",
    "create: Already",
    "create: NotFound",
    "create: Full",
    "create: ClockSkew",
    "create: Unavailable",
    "create: Unknown",
    "create: no answer",
    "cancel: Cancelled",
    "cancel: Unknown",
    "cancel: NotRelated",
    "reads of one side only",
    "status: done",
    "status: refused",
    "status: cancelled",
    "status: unknown",
)


@pytest.mark.parametrize("first", range(0, _SEEDS, _BLOCK))
def test_nothing_that_must_hold_is_broken(first: int) -> None:
    for seed in range(first, first + _BLOCK):
        result = run(plan_of(seed))
        _counts.update(result.history.counts)
        _seen.add(seed)
        if result.violation is not None:
            pytest.fail(explain(result, runs_max=150), pytrace=False)


def test_whatever_can_happen_has_happened() -> None:
    if len(_seen) < _SEEDS:
        pytest.skip("only some of the seeds were run")
    assert [what for what in _HAPPENED if not _counts[what]] == []
