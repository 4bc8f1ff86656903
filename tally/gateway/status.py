"""What became of an operation: asks both halves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final
from uuid import UUID

from tally.chassis.clock import Clock
from tally.gateway.evidence import gather
from tally.gateway.participants import Participants, Standing
from tally.halves.peer import Failed
from tally.halves.store import VOID_KEEP_MS
from tally.protocol.operation import time_ms
from tally.protocol.participant import Reason, Row
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

_DEAD = (Row.VOID, Row.CANCELLED, Row.CLOSED)
#: Why a half never lived; the other reasons leave open whether it did.
_LASTING = frozenset(Reason) - {Reason.KILLED, Reason.CANCELLED, Reason.DELETED, Reason.LOST}
#: In the place of a row: the side did not say.
UNREACHABLE: Final = "unreachable"
#: Younger operations have all the void rows that they ever had, though the clocks differ, unless a side was restored.
REMEMBERED_MS = VOID_KEEP_MS // 2


class State(StrEnum):
    """``done`` exists now. ``refused`` and ``cancelled`` are final. ``undecided`` is settled within the lag. ``gone``
    does not exist and never will; whether it once did, the halves don't know any more."""

    DONE = "done"
    REFUSED = "refused"
    CANCELLED = "cancelled"
    GONE = "gone"
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
        standing: dict[Side, Standing] = {side: one for side, one in told.items() if not isinstance(one, Failed)}
        held = {side: one.item for side, one in standing.items()}
        return Operation(
            op=op,
            state=state(op, standing, self._clock.now_ms()),
            rows={side: held[side].row if side in held else UNREACHABLE for side in Side},
            reasons=tuple({item.why: None for item in held.values() if item.why is not None}),
            left=next((item.left for item in held.values() if item.left is not None), None),
            right=next((item.right for item in held.values() if item.right is not None), None),
        )


def state(op: UUID, standing: dict[Side, Standing], now_ms: int) -> State:
    """What the words of the sides that answered come to."""
    held = [one.item for one in standing.values()]
    rows = [item.row for item in held]
    if len(held) < len(Side) and all(item.why is Reason.KILLED for item in held):
        # It is dead, because the other side was: only that one knows whether it ever lived.
        return State.UNKNOWN
    if any(row in _DEAD for row in rows):
        if any(item.why in (Reason.CANCELLED, Reason.DELETED) for item in held):
            return State.CANCELLED
        if _never_was(op, standing, now_ms):
            return State.REFUSED
        # (Of what was ended, the side where it was keeps the reason much longer than the other one.)
        return State.GONE if len(held) == len(Side) else State.UNKNOWN
    if len(rows) < len(Side):
        return State.UNKNOWN
    return State.DONE if all(row is Row.LIVE for row in rows) else State.UNDECIDED


def _never_was(op: UUID, standing: dict[Side, Standing], now_ms: int) -> bool:
    """Whether it is certain that what is dead never lived on both sides.

    Without its row, a side can't say any more why it is dead; "killed" says no more than that the other one was; and a
    side that was restored after the operation can't speak of the time before.
    """
    remembering = [one.item for one in standing.values() if not one.may_have_forgotten(op)]
    if any(one.item.why is Reason.LOST for one in standing.values()):
        return False  # it was live at the other side when this one was restored
    if any(item.why in _LASTING for item in remembering):
        return True
    if len(remembering) < len(standing):
        return False
    return all(item.row is not Row.CLOSED for item in remembering) or now_ms - time_ms(op) < REMEMBERED_MS
