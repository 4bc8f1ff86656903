"""A failure becomes small enough to read, and stays the same failure."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.plan import Hit, Storm
from tests.simulation.planted import planted
from tests.simulation.report import explain
from tests.simulation.shrink import Shrinker, minimise
from tests.simulation.world import Result, plan_of, run


def test_only_what_is_needed_remains() -> None:
    def fails(entries: Sequence[int]) -> bool:
        return {3, 40, 77} <= set(entries)

    assert minimise(range(100), fails) == [3, 40, 77]


def test_what_fails_without_anything_shrinks_to_nothing() -> None:
    assert minimise(range(10), lambda entries: True) == []


def _failing() -> Result:
    """The first failure with the bug that is planted now."""
    return next(result for seed in range(200) if (result := run(plan_of(seed))).violation is not None)


def test_a_failure_shrinks_to_the_messages_that_matter() -> None:
    with planted("a-timeout-kills-without-proof"):
        failed = _failing()
        smallest = Shrinker(failed, run, runs_max=150).shrink()
    assert failed.violation is not None and smallest.violation is not None
    assert smallest.violation.property is failed.violation.property
    assert len(smallest.plan.entries) <= 4
    assert not [fault for fault in smallest.plan.faults if isinstance(fault, Storm)]
    assert [fault for fault in smallest.plan.faults if isinstance(fault, Hit)]


def test_a_report_names_the_seed_and_tells_the_history() -> None:
    with planted("only-confirmed-halves-hold-seats"):
        failed = run(plan_of(0))
        report = explain(failed, runs_max=40)
    assert "seed 0: I4" in report
    assert "python -m tests.simulation --seed 0 -v" in report
    assert "record op" in report
