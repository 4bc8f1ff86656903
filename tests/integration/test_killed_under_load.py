"""The short form of `make chaos-local SCENARIO=kills`, from start to verdict: it must not rot between the long runs."""

import asyncio
from pathlib import Path

import pytest

from tests.chaos.cast import CASTS, Cast
from tests.chaos.check import exit_code
from tests.chaos.checker import check
from tests.chaos.history import read
from tests.chaos.run import Plan, run
from tests.chaos.verdict import described

SECONDS = 8.0


@pytest.mark.timeout(180)
@pytest.mark.parametrize("cast", CASTS.values(), ids=CASTS)
def test_processes_are_killed_under_load_and_every_invariant_holds(cast: Cast, tmp_path: Path) -> None:
    plan = Plan(cast, 1, "kills", SECONDS, 16, 20, 8, tmp_path)
    history = read(asyncio.run(run(plan)))
    verdicts = check(history)
    assert exit_code(verdicts) == 0, described(verdicts)
    assert history.faults
    blind = {verdict.name for verdict in verdicts if not verdict.checked}
    assert blind <= BLIND[cast.relationship.name], "an invariant had nothing to look at"


#: Nobody is let in who sends nonsense, or may not call.
NO_GUESTS = {"garble-is-refused", "strangers-are-refused"}
#: The invariants that have nothing to look at in this scenario, by relationship.
BLIND: dict[str, set[str]] = {
    "attendance": NO_GUESTS,
    # Nobody counts seats, keeps copies, or mails.
    "talk": NO_GUESTS | {"seats-at-the-end", "seats-while-running", "copies-follow", "mailed-once"},
}
