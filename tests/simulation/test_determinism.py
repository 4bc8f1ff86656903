"""One seed, one history: in any process, with any hash seed, however often."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.simulation.world import plan_of, run

_SEEDS = (3, 4, 11)
_PRINT = f"""
from tests.simulation.world import plan_of, run
for seed in {_SEEDS}:
    print(run(plan_of(seed)).history.digest)
"""


def _digests(hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", _PRINT], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.split()


def test_the_hash_seed_does_not_matter() -> None:
    assert _digests("1") == _digests("4242") == [run(plan_of(seed)).history.digest for seed in _SEEDS]


def test_a_run_leaves_nothing_behind_that_changes_the_next() -> None:
    run(plan_of(4))
    assert run(plan_of(11)).history.digest == run(plan_of(11)).history.digest


def test_seeds_differ() -> None:
    assert run(plan_of(6)).history.digest != run(plan_of(8)).history.digest
