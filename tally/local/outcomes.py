"""What became of an operation, for a person: the answer of GET /operation/{id} in words, and what to do about it.

An outcome has one of three values: done, refused, or unknown. Most states are one of the first two for good; the
others are unknown, and say whom they wait for.
"""

from __future__ import annotations

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

from tally.local.ask import Answer

STATES: Final = {
    "done": "Done: it is recorded on both sides.",
    "refused": "Refused: nothing is recorded, now or later.",
    "cancelled": "Cancelled: it was recorded on both sides once, and will not be again.",
    "gone": "Gone: nothing is recorded, now or later; whether it once was is not known any more.",
    "undecided": "Undecided: only one side has it yet; it is settled within a few seconds, so ask again.",
    "deferred": "Deferred: it is carried out as soon as the services that it needs are there.",
    "confirmed": "Confirmed: it was deferred, and has been carried out.",
    "rejected": "Rejected: it was deferred, and can't be carried out, now or later.",
    "abandoned": "Abandoned: it was deferred, and an operator has given it up.",
    "parked": "Parked: it failed in a way that nobody foresaw; `tally operation retry` tries it again.",
    "unknown": "Unknown: a service that must be asked does not answer; ask again when it is back.",
    "started": "Started: it ends the attendances of what was deleted, and goes on.",
    "completed": "Completed: the attendances of what was deleted have all ended.",
}
_NOWHERE: Final = (
    "Undecided: neither side has it yet. If it was ever sent, it may still come; ask again in a few seconds, when its "
    "epoch is closed."
)
OPEN: Final = frozenset({"undecided", "unknown", "deferred", "parked", "started"})
"""Neither done nor refused yet."""
NOT_YET: Final = 3
"""The exit code of what is not decided, or has not ended. 2 is a command that was mistyped, as everywhere."""

_ADVICE: Final = (
    "It is neither done nor refused yet, so take it for neither: nothing needs to be undone, and to ask for the same "
    "thing again is safe."
)
#: What else is said of an operation, where it is.
_TOLD: Final = ("location", "reasons", "detail", "attempt", "attempts", "next_at")


def is_open(answer: Answer) -> bool:
    """Whether the answer says that nothing is decided yet."""
    return answer.status == HTTPStatus.OK and isinstance(answer.body, dict) and answer.body.get("state") in OPEN


def in_words(answer: Answer) -> str:
    """What was answered, with the halves, and with its history where the directory has one."""
    if answer.status != HTTPStatus.OK or not isinstance(answer.body, dict):
        return answer.says()
    state = str(answer.body.get("state"))
    said = _NOWHERE if state == "undecided" and _is_nowhere(answer.body) else STATES.get(state, state)
    advice = [_ADVICE] if state in OPEN else []
    return "\n".join([said, *advice, *_facts(answer.body)])


def _is_nowhere(body: dict[str, Any]) -> bool:
    return set((body.get("halves") or {}).values()) == {"open"}


def _facts(body: dict[str, Any]) -> Iterator[str]:
    for side, row in (body.get("halves") or {}).items():
        yield f"  {side:<12} {row}"
    for name in _TOLD:
        if value := body.get(name):
            yield f"  {name:<12} {', '.join(value) if isinstance(value, list) else value}"
    for entry in body.get("history") or ():
        why = f" ({entry['reason']})" if entry.get("reason") else ""
        yield f"  {entry['at']}  {entry['state']}{why}"
