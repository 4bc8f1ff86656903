"""The protocol's tables and its state diagram follow from the functions that run: `docs/tables.md`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from tally.protocol import gateway
from tally.protocol.gateway import SILENT, UNSENT, Dead, Evidence, Recorded
from tally.protocol.participant import TABLE, Message, Reason, Row, Status, Step
from tally.protocol.relationship import Side

Golden = Callable[[str, str], None]

_LEFT, _RIGHT = "left", "right"  # incarnations that believe in each other
_STATES = {Row.OPEN: "absent", Row.LIVE: "live", Row.VOID: "void", Row.CANCELLED: "cancelled"}
_WRITTEN = {Status.LIVE: "live", Status.VOID: "void", Status.CANCELLED: "cancelled"}
_COLUMNS = {
    Row.LIVE: "live",
    Row.VOID: "void",
    Row.CANCELLED: "cancelled",
    Row.CLOSED: "absent, epoch closed",
    Row.OPEN: "absent, epoch open",
}
_SAID: dict[str, tuple[Evidence, Evidence]] = {
    "recorded": (Recorded(_LEFT, _RIGHT), Recorded(_RIGHT, _LEFT)),
    "dead": (Dead(_LEFT, _RIGHT, Reason.NOT_FOUND), Dead(_RIGHT, _LEFT, Reason.NOT_FOUND)),
    "dead (taken)": (Dead(_LEFT, _RIGHT, Reason.TAKEN, "op'"), Dead(_RIGHT, _LEFT, Reason.TAKEN, "op'")),
    "never sent": (UNSENT, UNSENT),
    "silent": (SILENT, SILENT),
}


def test_the_tables_of_the_protocol_are_documented(golden: Golden) -> None:
    lines = [
        "# The protocol's tables",
        "",
        "Generated from the functions that run (`tally/protocol`); `make golden` writes this page anew.",
        "",
        "## The life of a half",
        "",
        "```mermaid",
        *_diagram(),
        "```",
        "",
        "What is absent and whose epoch is closed is dead: nothing is written for it any more. Void rows of closed",
        "epochs are dropped.",
        "",
        "## What a participant does with a message",
        "",
        "What is written, and what is answered. KILL and ACK are refused if they name another incarnation than the",
        "peer's.",
        "",
        *_participant(),
        "",
        "## What the gateway does with two answers to RECORD",
        "",
        "Rows: what the left side said; columns: the right side. In italics, what is done at the deadline.",
        "",
        *_gateway(),
    ]
    golden("docs/tables.md", "\n".join(lines) + "\n")


def _diagram() -> Iterator[str]:
    messages: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (message, row), step in TABLE.items():
        if step.write is not None:
            messages[_STATES[row], _WRITTEN[step.write]].append(_name(message))
    yield "stateDiagram-v2"
    yield "    [*] --> absent"
    for (before, after), names in messages.items():
        yield f"    {before} --> {after}: {', '.join(names)}"
    yield "    live --> cancelled: the entity is deleted"
    yield "    void --> [*]: its epoch is closed"


def _participant() -> Iterator[str]:
    yield f"| message | {' | '.join(_COLUMNS.values())} |"
    yield "|---" * (len(_COLUMNS) + 1) + "|"
    for message in dict.fromkeys(message for message, _ in TABLE):
        cells = [_cell(TABLE.get((message, row))) for row in _COLUMNS]
        yield f"| {_name(message)} | {' | '.join(cells)} |"


def _cell(step: Step | None) -> str:
    if step is None:
        return "–"
    answer = {"nothing": ""}.get(step.answer.value, step.answer.value)
    written = "" if step.write is None else f"→ **{_WRITTEN[step.write]}**"
    return ", ".join(filter(None, [written, answer])) or "–"


def _name(message: object) -> str:
    text = str(getattr(message, "value", message))
    return text.upper() if isinstance(message, Message) else text.replace("record", "RECORD")


def _gateway() -> Iterator[str]:
    yield f"| left \\ right | {' | '.join(_SAID)} |"
    yield "|---" * (len(_SAID) + 1) + "|"
    for said, (left, _) in _SAID.items():
        cells = [_decision(left, right) for _, right in _SAID.values()]
        yield f"| {said} | {' | '.join(cells)} |"


def _decision(left: Evidence, right: Evidence) -> str:
    now, late = (_words(gateway.create(left, right, expired=expired)) for expired in (False, True))
    return now if now == late else f"{now}<br>*at the deadline:* {late}"


def _words(step: gateway.Verdict | gateway.Send) -> str:
    match step:
        case gateway.Created():
            return "**created**"
        case gateway.Already(other):
            return f"**already** ({other})"
        case gateway.Refused():
            return "**refused**"
        case gateway.Unknown():
            return "**unknown**"
        case gateway.Kill(side):
            return f"KILL at the {side.value}"
        case gateway.KillUnsent(side):
            return f"KILL at the {side.value}, naming its peer of before"
        case gateway.Resolve(sides):
            return f"RESOLVE at {'both' if len(sides) == len(Side) else f'the {sides[0].value}'}"
        case gateway.RecordAgain():
            return "RECORD again"
