"""The Prometheus that watches a deployment of ours: has it seen everything?

It looks for its targets only every five seconds, and scrapes each of them at its own moment. What a counter counted
before its first scrape is not seen by `rate`, now or later; what it counts after the last one is not seen yet.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from tally.local.ask import ask
from tests.integration.resilience.deployment import PATIENCE_S

_POLL_S = 0.1


def asked(url: str, path: str, **parameters: Any) -> Any:
    """What its API answers."""
    answer = ask("GET", f"{url}/api/v1/{path}?{urlencode(parameters)}", timeout_s=PATIENCE_S)
    assert answer.status == 200, answer.says()
    return answer.body["data"]


def watched(url: str, jobs: Collection[str]) -> None:
    """Wait until each job has been scraped after this moment, and then every rule has been evaluated."""
    _until(lambda since_s: not (set(jobs) - _scraped(url, since_s)), f"{', '.join(sorted(jobs))} are scraped")
    _until(lambda since_s: all(_at_s(group["lastEvaluation"]) > since_s for group in _groups(url)), "the rules are run")


def _scraped(url: str, since_s: float) -> set[str]:
    targets = asked(url, "targets", state="active")["activeTargets"]
    return {one["labels"]["job"] for one in targets if one["health"] == "up" and _at_s(one["lastScrape"]) > since_s}


def _groups(url: str) -> list[Any]:
    return list(asked(url, "rules")["groups"])


def _at_s(told: str) -> float:
    return datetime.fromisoformat(told).timestamp()


def _until(holds: Callable[[float], bool], what: str) -> None:
    since_s = time.time()
    while not holds(since_s):
        assert time.time() < since_s + PATIENCE_S, f"not within {PATIENCE_S:g} s: {what}"
        time.sleep(_POLL_S)
