"""The test of the test: each planted bug is found, and by a property that is about it."""

from __future__ import annotations

from itertools import chain

import pytest

from tests.simulation.planted import BUGS, planted
from tests.simulation.world import Result, plan_of, run

_SEEDS = 200


def _found(name: str) -> Result | None:
    """The first run that finds the bug, of the seeds that ``make test`` runs; begun near where it was found last."""
    near = BUGS[name].near
    for seed in chain(range(near, _SEEDS), range(near)):
        with planted(name):
            result = run(plan_of(seed))
        if result.violation is not None:
            return result
    return None


@pytest.mark.parametrize("name", BUGS)
def test_a_planted_bug_is_found(name: str) -> None:
    result = _found(name)
    assert result is not None, f"{name} was not found by {_SEEDS} seeds"
    assert result.violation is not None
    assert result.violation.property in BUGS[name].shows, result.violation


def test_the_bug_is_gone_when_it_is_dug_out() -> None:
    with planted("only-confirmed-halves-hold-seats"):
        assert run(plan_of(0)).violation is not None
    assert run(plan_of(0)).violation is None
