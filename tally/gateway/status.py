"""What became of an operation: asks both halves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from tally.chassis.clock import Clock
from tally.gateway.evidence import gather
from tally.gateway.participants import Participants
from tally.halves.peer import Failed
from tally.protocol import messages as wire
from tally.protocol.participant import Reason, Row
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

_DEAD = (Row.VOID, Row.CANCELLED, Row.CLOSED)


class State(StrEnum):
    """``done`` exists now. ``refused`` and ``cancelled`` are final. ``undecided`` is settled within the lag."""

    DONE = "done"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    UNDECIDED = "undecided"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Operation:
    """An operation as its halves tell it; ``left`` and ``right`` are its pair where a side still knows it."""

    op: UUID
    state: State
    rows: dict[Side, str]
    reasons: tuple[Reason, ...] = ()
    left: UUID | None = None
    right: UUID | None = None


class StatusReader:
    """Asks both participants for an operation."""

    def __init__(self, participants: Participants, clock: Clock) -> None:
        self._participants = participants
        self._clock = clock

    async def operation(self, op: UUID, deadline: Deadline) -> Operation:
        tickets = {side: self._participants[side].status.submit(op, deadline) for side in Side}
        told = await gather(tickets, deadline.left_s(self._clock.monotonic_s()))
        held: dict[Side, wire.StatusItem] = {s: item for s, item in told.items() if not isinstance(item, Failed)}
        return Operation(
            op=op,
            state=_state(held),
            rows={side: held[side].row if side in held else "unreachable" for side in Side},
            reasons=tuple({item.why: None for item in held.values() if item.why is not None}),
            left=next((item.left for item in held.values() if item.left is not None), None),
            right=next((item.right for item in held.values() if item.right is not None), None),
        )


def _state(held: dict[Side, wire.StatusItem]) -> State:
    rows = [Row(item.row) for item in held.values()]
    if len(held) < len(Side) and all(item.why is Reason.KILLED for item in held.values()):
        # It is dead, because the other side was: only that one knows whether it ever lived.
        return State.UNKNOWN
    if any(row in _DEAD for row in rows):
        ended = any(item.why in (Reason.CANCELLED, Reason.DELETED) for item in held.values())
        return State.CANCELLED if ended else State.REFUSED
    if len(rows) < len(Side):
        return State.UNKNOWN
    return State.DONE if all(row is Row.LIVE for row in rows) else State.UNDECIDED
