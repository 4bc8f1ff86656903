"""What a participant does with a message: a table, and what surrounds it.

Assumes that the caller runs one transaction per message, under the locks that the SQL states: shared for
RECORD, RESOLVE, KILL, CANCEL, ACK and SETTLE, exclusive for CLOSE, REJOIN and the deletion of an entity; and a second
one that keeps KILL and CANCEL (shared) apart from SETTLE (exclusive). What is not in the table is refused.

==========  ==========  ===========  ==========================  =========================
message     live        void         absent, time in a closed    absent, time still open
                        cancelled    epoch
==========  ==========  ===========  ==========================  =========================
RECORD      recorded    dead         dead (too late)             live -> recorded, or
                                                                 void -> dead (the refusal)
RESOLVE     recorded    dead         dead                        void -> dead
KILL        void->dead  dead         dead                        void -> dead
CANCEL      cancelled   dead         dead                        void -> dead
            -> dead
ACK         -           cancelled    -                           -
                        -> void
==========  ==========  ===========  ==========================  =========================
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

#: An operation's or an incarnation's identity. The protocol only compares it: a UUID in production, a
#: small number in the explorer.
Id = Hashable

#: RECORD of an operation from the future is refused beyond this (clock guard: liveness, not safety).
EARLY_MAX_MS = 5_000


class Message(StrEnum):
    RECORD = "record"
    RESOLVE = "resolve"
    KILL = "kill"
    CANCEL = "cancel"
    ACK = "ack"


class Status(StrEnum):
    """What a row of the half table says; the values are what PostgreSQL stores."""

    LIVE = "L"
    VOID = "V"
    CANCELLED = "C"  # dead here, and the peer is not yet known to know


class Row(StrEnum):
    """What a participant holds for an operation: a column of the table above."""

    LIVE = "live"
    VOID = "void"
    CANCELLED = "cancelled"
    CLOSED = "closed"  # no row, and the epoch of its time is closed: dead
    OPEN = "open"  # no row, and one may still be recorded


class Answer(StrEnum):
    RECORDED = "recorded"
    DEAD = "dead"
    STALE = "stale"  # the message speaks of an incarnation of the peer that is not the current one
    NOTHING = "nothing"  # ACK has no answer to give


class Reason(StrEnum):
    """Why an operation is dead on a side."""

    NOT_FOUND = "not-found"  # the entity this side owns does not exist
    TAKEN = "taken"  # another operation of the pair is live here
    FULL = "full"  # no seat left
    TOO_LATE = "too-late"  # its epoch is closed
    TOO_EARLY = "too-early"  # its time is in the future
    RESOLVED = "resolved"  # asked for before it was recorded, so it never will be
    KILLED = "killed"  # the peer is dead for it
    CANCELLED = "cancelled"  # somebody cancelled it
    DELETED = "deleted"  # the entity was deleted
    LOST = "lost"  # a restore lost the entity


class Step(NamedTuple):
    """A cell of the table: the status to write (None: leave the row as it is) and the answer."""

    write: Status | None
    answer: Answer


class _Refusal(StrEnum):
    """A RECORD whose checks failed: a line of the table of its own, not a message."""

    RECORD_REFUSED = "record refused"


REFUSED = _Refusal.RECORD_REFUSED

Table = Mapping[tuple[Message | _Refusal, Row], Step]

_KEEP_RECORDED = Step(None, Answer.RECORDED)
_KEEP_DEAD = Step(None, Answer.DEAD)
_FENCE = Step(Status.VOID, Answer.DEAD)
_NOTHING = Step(None, Answer.NOTHING)
_DEAD_ROWS = (Row.VOID, Row.CANCELLED, Row.CLOSED)

TABLE: Table = {
    (Message.RECORD, Row.LIVE): _KEEP_RECORDED,
    **{(Message.RECORD, row): _KEEP_DEAD for row in _DEAD_ROWS},
    (Message.RECORD, Row.OPEN): Step(Status.LIVE, Answer.RECORDED),
    # A refusal is a void row, so its reply is a proof: the 404 or 409 needs no clean-up to be safe.
    (REFUSED, Row.OPEN): _FENCE,
    (Message.RESOLVE, Row.LIVE): _KEEP_RECORDED,
    **{(Message.RESOLVE, row): _KEEP_DEAD for row in _DEAD_ROWS},
    (Message.RESOLVE, Row.OPEN): _FENCE,
    (Message.KILL, Row.LIVE): Step(Status.VOID, Answer.DEAD),
    **{(Message.KILL, row): _KEEP_DEAD for row in _DEAD_ROWS},
    (Message.KILL, Row.OPEN): _FENCE,
    (Message.CANCEL, Row.LIVE): Step(Status.CANCELLED, Answer.DEAD),
    **{(Message.CANCEL, row): _KEEP_DEAD for row in _DEAD_ROWS},
    (Message.CANCEL, Row.OPEN): _FENCE,
    (Message.ACK, Row.CANCELLED): Step(Status.VOID, Answer.NOTHING),
    **{(Message.ACK, row): _NOTHING for row in Row if row is not Row.CANCELLED},
}

#: Why a row is dead that a message made dead.
_WHY: Mapping[Message, Reason] = {
    Message.RESOLVE: Reason.RESOLVED,
    Message.KILL: Reason.KILLED,
    Message.CANCEL: Reason.CANCELLED,
}

#: Messages that rest on what the peer said: refused unless they name its current incarnation.
PROVEN_BY_PEER = frozenset({Message.KILL, Message.ACK})


@dataclass(frozen=True, slots=True)
class Mark:
    """A participant's own state: one row. Times in Unix milliseconds; ``settled`` is used on the right."""

    inc: Id
    peer_inc: Id
    closed: int = 0
    settled: int = 0
    restoring: bool = False


@dataclass(frozen=True, slots=True)
class Checks:
    """What RECORD must know beyond its row: all read in the transaction that writes."""

    entity: bool
    taken: Id | None = None
    seat: bool = True
    early: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What to write and to answer. ``seats`` is -1, 0 or 1; ``cancelled`` asks for a cancelled event."""

    answer: Answer
    write: Status | None = None
    why: Reason | None = None
    other: Id | None = None
    seats: int = 0
    cancelled: bool = False


def row_of(status: Status | None, time: int, closed: int) -> Row:
    """The column of the table for a stored status (None: no row)."""
    match status:
        case Status.LIVE:
            return Row.LIVE
        case Status.VOID:
            return Row.VOID
        case Status.CANCELLED:
            return Row.CANCELLED
        case None:
            return Row.CLOSED if time <= closed else Row.OPEN


def refusal(checks: Checks) -> tuple[Reason, Id | None] | None:
    """Why RECORD can't be taken, with the operation that stands in its way; None if it can."""
    if checks.early:
        return Reason.TOO_EARLY, None
    if not checks.entity:
        return Reason.NOT_FOUND, None
    if checks.taken is not None:
        return Reason.TAKEN, checks.taken
    if not checks.seat:
        return Reason.FULL, None
    return None


def decide(
    message: Message,
    row: Row,
    mark: Mark,
    time: int,
    *,
    checks: Checks | None = None,
    inc: Id | None = None,
    table: Table = TABLE,
) -> Decision:
    """Decide one message about one operation of ``time``, held as ``row`` under ``mark``.

    RECORD needs ``checks``; KILL and ACK name the peer's ``inc`` that their proof is from. The caller
    supplies the stored reason of a row that was dead before (``Decision.why`` is of what is written).
    """
    if message in PROVEN_BY_PEER and inc != mark.peer_inc:
        return Decision(Answer.STALE)
    if message is Message.RECORD and row is Row.OPEN:
        if checks is None:
            raise ValueError("RECORD of an absent operation can't be decided without its checks")
        if (refused := refusal(checks)) is not None:
            step = table[REFUSED, row]
            return Decision(step.answer, step.write, *refused)
    step = table[message, row]
    left_live = row is Row.LIVE and step.write is not None
    return Decision(
        answer=step.answer,
        write=step.write,
        why=_why(message, row, step),
        seats=(step.write is Status.LIVE) - left_live,
        # What was confirmed must be seen to end, in the transaction that ends it.
        cancelled=left_live and time <= mark.settled,
    )


def _why(message: Message, row: Row, step: Step) -> Reason | None:
    if row is Row.CLOSED and step.answer is Answer.DEAD:
        return Reason.TOO_LATE
    return _WHY.get(message) if step.write in (Status.VOID, Status.CANCELLED) else None


def delete_entity(time: int, mark: Mark) -> Decision:
    """What becomes of a live half when the entity it belongs to is deleted, in the same transaction."""
    return Decision(Answer.DEAD, Status.CANCELLED, Reason.DELETED, seats=-1, cancelled=time <= mark.settled)


def may_close(time: int, now: int, lag: int) -> bool:
    """Clock guard: a settler whose clock is ahead must not close what gateways are still recording."""
    return time <= now - lag // 2


def close(mark: Mark, time: int) -> Mark:
    """CLOSE(T, S): nothing is born up to ``time`` any more. The listing follows in a later statement."""
    return replace(mark, closed=max(mark.closed, time))


def settle(
    mark: Mark, since: int, time: int, matched: Iterable[Id], inc: Id, live: Collection[Id]
) -> tuple[Mark, list[Id]] | None:
    """SETTLE(S, T, matched) on the right: the new mark and what to confirm; None if it does not apply.

    It applies once per window (compare and set on ``settled``), only to the incarnation that was listed,
    and confirms only what is still live in this transaction.
    """
    if mark.inc != inc or mark.settled != since or mark.settled >= time:
        return None
    return replace(mark, settled=time), [op for op in matched if op in live]


def rejoin(mark: Mark, inc: Id) -> Mark:
    """REJOIN(inc) on the intact side: from now on only proofs of the peer's new incarnation count."""
    return replace(mark, peer_inc=inc)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The intact side's answer to REJOIN: its live operations with their times, and its mark."""

    live: Mapping[Id, int]
    closed: int
    inc: Id


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What a restored side does with the answer to its latest REJOIN, in one transaction."""

    mark: Mark
    copy: frozenset[Id]  # live at the peer: live here too
    orphan: frozenset[Id]  # live at the peer, but the restore lost its entity here: cancelled
    drop: frozenset[Id]  # live here, not at the peer: gone
    cancelled: frozenset[Id]  # of those dropped, what had been confirmed


def reconcile(
    mark: Mark,
    rows: Mapping[Id, Status],
    times: Mapping[Id, int],
    lost_entity: Collection[Id],
    snapshot: Snapshot,
    inc: Id,
) -> Reconciliation:
    """Apply the peer's snapshot to a restored side that has been ``inc`` since it asked.

    Own void and cancelled rows stay; every live half of the peer is copied, settled or not, since an
    acknowledged operation can't be told from a lone half; ``settled`` stays as the backup had it.
    """
    dead = {op for op, status in rows.items() if status is not Status.LIVE}
    wanted = snapshot.live.keys() - dead
    orphan = frozenset(wanted & set(lost_entity))
    drop = frozenset(rows.keys() - dead - snapshot.live.keys())
    return Reconciliation(
        mark=replace(
            mark,
            inc=inc,
            peer_inc=snapshot.inc,
            closed=max(mark.closed, snapshot.closed),
            restoring=False,
        ),
        copy=frozenset(wanted - orphan),
        orphan=orphan,
        drop=drop,
        cancelled=frozenset(op for op in drop if times[op] <= mark.settled),
    )
