"""Errors, resets and cut answers under load: retries keep to their budget, outcomes add up, both databases agree."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.resilience.deployment import Deployment
from tests.integration.resilience.recorded import Load, judged, recorded

SECONDS = 2.0
INTERNAL = "/internal/attendance/"
FLOOR_PER_S = 0.2
"""What the budget allows beside a tenth of the calls."""

KINDS = ("read", "write")


def fault(kind: str, rate: float, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "rate": rate, "path": INTERNAL, **more}


@pytest.mark.parametrize("kind", ["reset", pytest.param("error", marks=pytest.mark.chaos)])
async def test_with_half_of_the_calls_failing_retries_are_a_tenth_and_every_outcome_is_told_and_true(
    deployment: Deployment, tmp_path: Path, kind: str
) -> None:
    # Without the breakers, which alone would end nearly all calls: it is the budget that has to hold.
    for calls in KINDS:
        deployment.operator.force("gateway", "conference", calls, "forced_closed")
    try:
        # Calls of the seconds before have earned retries, too.
        saved = max(one["retry_balance"] for one in deployment.operator.breakers("gateway"))
        began_s = time.monotonic()
        sent = await deployment.attempts("gateway", "conference")
        retried = await deployment.metric("gateway", "tally_retries_total", peer="conference")
        load = Load({"conference": [fault(kind, 0.5)]}, SECONDS, tmp_path / "half.jsonl")
        history = await recorded(deployment, load)
        attempts = await deployment.attempts("gateway", "conference") - sent
        again = await deployment.metric("gateway", "tally_retries_total", peer="conference") - retried
    finally:
        for calls in KINDS:
            deployment.operator.force("gateway", "conference", calls, "auto")
    outcomes = judged(history)
    assert again <= 0.1 * (attempts - again) + saved + FLOOR_PER_S * (time.monotonic() - began_s) + 1
    assert (again > 0) is (kind == "reset")  # a problem of the peer's own would be the same the next time
    print(f"{kind}: {attempts:.0f} calls, {again:.0f} of them again; {dict(outcomes)}")
    assert outcomes["done"] > 0


@pytest.mark.parametrize("service", ["conference", pytest.param("author", marks=pytest.mark.chaos)])
async def test_answers_that_are_cut_and_connections_that_are_reset_lose_nothing(
    deployment: Deployment, tmp_path: Path, service: str
) -> None:
    faults = [fault("reset", 0.1, seed=1), fault("cut", 0.15, seed=2), fault("duplicate", 0.2, seed=3)]
    history = await recorded(deployment, Load({service: faults}, SECONDS, tmp_path / "cuts.jsonl"))
    assert judged(history)["done"] > 0
