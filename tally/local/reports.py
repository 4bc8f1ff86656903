"""A restore's report in words, as `tally restore report` prints it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: What the kinds of the report mean, in the order in which they are told.
_KINDS: Final = {
    "entity-recovered": "entities came back from the stream",
    "entity-deleted": "entities were deleted again, as the stream knows",
    "entity-retold": "entities were told again, because the stream did not know them",
    "operation-copied": "operations were copied from the other side",
    "entity-lost": "entities are lost: the other side knew of them, the stream did not",
    "entity-conflict": "entities could not be brought back",
    "operation-lost": "operations ended, because their entity is lost",
    "operation-dropped": "operations were dropped: the other side does not have them",
    "operation-cancelled": "of those had been confirmed, and were cancelled",
    "overbooked": "events have more attendees than seats",
}


def in_words(status: Mapping[str, Any]) -> str:
    """The latest restore: what was noticed, what came back, what is lost."""
    if not status["items"]:
        return "It was never restored from a backup."
    report = status["items"][0]
    lines = [f"Restored from a backup: {report['reason']}.", f"Begun {report['begun_at']}."]
    if status["restoring"]:
        lines.append(f"Under way: {status['waits_for'] or 'catching up'}.")
    else:
        lines.append(f"Ended {report['ended_at']}.")
    if report["skipped"]:
        lines.append(f"Without the {' and the '.join(report['skipped'])}.")
    lines += [f"{report['counts'][kind]:>8}  {what}" for kind, what in _KINDS.items() if kind in report["counts"]]
    if report["losses"]:
        lines.append("What could not be kept:")
        lines += [_loss(loss) for loss in report["losses"]]
    elif status["restoring"]:
        lines.append("What is lost is known when it has ended.")
    else:
        lines.append("Nothing is lost that anybody had heard of.")
    return "\n".join(lines)


def _loss(loss: Mapping[str, Any]) -> str:
    detail = f": {loss['detail']}" if loss["detail"] else ""
    return f"  {loss['kind']:<20} {loss['entity']} {loss['subject']}{detail}"
