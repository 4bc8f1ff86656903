"""What `tally restore report` says of losses: nothing, before they are known."""

from __future__ import annotations

from typing import Any

from tally.local.reports import in_words


def told(*, restoring: bool) -> str:
    report: dict[str, Any] = {
        "reason": "a test", "begun_at": "12:00:00", "ended_at": None if restoring else "12:00:01", "skipped": [],
        "counts": {}, "losses": [],
    }  # fmt: skip
    return in_words({"restoring": restoring, "waits_for": None, "items": [report]}).splitlines()[-1]


def test_nothing_is_lost_is_said_when_it_has_ended() -> None:
    assert told(restoring=True) == "What is lost is known when it has ended."
    assert told(restoring=False) == "Nothing is lost that anybody had heard of."
