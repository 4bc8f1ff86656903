"""What a gateway concludes from what two participants said, or did not say, about one operation.

Assumes that RECORD went to both sides at once, or to one only when the other was unreachable before a
byte left; that a side of which nothing is known any more was asked RESOLVE; and that evidence may be
arbitrarily old. The shell (``tally.gateway``) gathers evidence until :func:`create` gives a verdict.

=====================================  ==========================================================
evidence                               conclusion
=====================================  ==========================================================
recorded, recorded, same incarnations  created
recorded, recorded, others             RECORD once more at both: one answer is from before a restore
dead, dead, both taken by one op'      already(op')
dead, dead                             refused, for the reasons given
dead, anything                         KILL at the other, naming the incarnation of the dead side;
                                       at the deadline refused all the same: one proof is enough
                                       while that database isn't restored
unsent, recorded                       KILL there, naming the peer incarnation known before RECORD
unsent, dead; unsent, unsent           refused: unavailable
silent, anything not dead              RESOLVE there; at the deadline unknown
=====================================  ==========================================================
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from tally.protocol.participant import Id, Reason
from tally.protocol.relationship import Side


class _Unsent(StrEnum):
    UNSENT = "unsent"


class _Silent(StrEnum):
    SILENT = "silent"


#: RECORD never left for this side, and never will: to the operation the side is as good as dead.
UNSENT = _Unsent.UNSENT
#: RECORD may or may not have arrived.
SILENT = _Silent.SILENT


class Recorded(Struct, frozen=True):
    """The side held the operation live, as incarnation ``inc``, believing its peer to be ``peer_inc``."""

    inc: Id
    peer_inc: Id


class Dead(Struct, frozen=True):
    """The side was dead for the operation: a proof, as long as it stays incarnation ``inc``."""

    inc: Id
    peer_inc: Id
    why: Reason | None = None
    other: Id | None = None


Evidence = _Unsent | _Silent | Recorded | Dead


class Created(Struct, frozen=True):
    """Both halves are live: the relation exists."""


class Already(Struct, frozen=True):
    """Both halves of ``other`` were live: the pair was related before."""

    other: Id


class Refused(Struct, frozen=True):
    """Nothing exists, now or later. ``left`` and ``right`` say why; UNSENT: that side is unavailable."""

    left: Reason | _Unsent | None
    right: Reason | _Unsent | None


class Unknown(Struct, frozen=True):
    """Nothing is proven. The operation's address tells, at the latest when its epoch is settled."""


class Kill(Struct, frozen=True):
    """Send KILL to ``side``, naming the peer incarnation ``inc`` that the proof is from."""

    side: Side
    inc: Id


class KillUnsent(Struct, frozen=True):
    """Send KILL to ``side``, naming the incarnation that its peer had *before* RECORD was sent.

    A rejoin since then may have copied the operation to the peer, and the KILL must then be refused.
    """

    side: Side


class Resolve(Struct, frozen=True):
    """Ask ``sides`` what became of the operation; an absent one is fenced by the question."""

    sides: tuple[Side, ...]


class RecordAgain(Struct, frozen=True):
    """Send RECORD to both sides again: it is idempotent, and brings evidence of today's incarnations."""


Verdict = Created | Already | Refused | Unknown
Send = Kill | KillUnsent | Resolve | RecordAgain


def create(left: Evidence, right: Evidence, *, expired: bool) -> Verdict | Send:
    """The verdict on a create, or what to send to get nearer to one (never after the deadline)."""
    match left, right:
        case Recorded(), Recorded():
            if left.inc == right.peer_inc and right.inc == left.peer_inc:
                return Created()
            return Unknown() if expired else RecordAgain()
        case Dead(), Dead():
            if _taken_by_one(left, right):
                return Already(left.other)
            return Refused(left.why, right.why)
        case (Dead(), _Unsent()) | (_Unsent(), Dead()) | (_Unsent(), _Unsent()):
            return Refused(_reason(left), _reason(right))
        case (Dead(), _) | (_, Dead()) if expired:
            return Refused(_reason(left), _reason(right))
        case Dead(), _:
            return Kill(Side.RIGHT, left.inc)
        case _, Dead():
            return Kill(Side.LEFT, right.inc)
        case _ if expired:
            return Unknown()
        case _Unsent(), Recorded():
            return KillUnsent(Side.RIGHT)
        case Recorded(), _Unsent():
            return KillUnsent(Side.LEFT)
        case _:
            silent = ((Side.LEFT, left), (Side.RIGHT, right))
            return Resolve(tuple(side for side, evidence in silent if evidence is SILENT))


def _taken_by_one(left: Dead, right: Dead) -> bool:
    return (
        left.why is Reason.TAKEN
        and right.why is Reason.TAKEN
        and left.other is not None
        and left.other == right.other
        and left.inc == right.peer_inc
        and right.inc == left.peer_inc
    )


def _reason(evidence: Evidence) -> Reason | _Unsent | None:
    match evidence:
        case Dead(why=why):
            return why
        case _Unsent():
            return evidence
        case _:
            return None


#: Refusals that say nothing about the pair: a new operation may fare better.
_OF_THE_ATTEMPT = frozenset({Reason.TAKEN, Reason.TOO_LATE, Reason.RESOLVED, Reason.KILLED, Reason.CANCELLED})


def worth_another_attempt(refused: Refused) -> bool:
    """Whether a fresh operation for the same pair may succeed: no side gave a reason that will last."""
    reasons = {reason for reason in (refused.left, refused.right) if reason is not None}
    return bool(reasons) and reasons <= _OF_THE_ATTEMPT


def cancel(left: Evidence, right: Evidence, *, expired: bool) -> Refused | Unknown | None:
    """The verdict on a cancel: Refused is success (dead for ever), None means keep sending CANCEL.

    Done at two acknowledgements; at the deadline one is enough, unless that database is later restored.
    """
    match left, right:
        case Dead(), Dead():
            return Refused(left.why, right.why)
        case (Dead(), _) | (_, Dead()) if expired:
            return Refused(_reason(left), _reason(right))
        case _ if expired:
            return Unknown()
        case _:
            return None
