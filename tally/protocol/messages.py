"""What travels between a gateway or settler and a participant: batches of JSON, answered item by item.

Assumes one participant per URL; the path under ``/internal/{relationship}/`` names the message. Items are
arrays, not objects, because there are many of them. Every reply carries the answering side's mark.
"""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import msgspec

from tally.protocol.participant import Answer, Reason, Row

#: Items in one batch, at most: what one transaction should hold its locks for.
BATCH_MAX = 512

#: Unix milliseconds, as many as an operation's id has room for.
Time = Annotated[int, msgspec.Meta(ge=0, le=2**48 - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
#: What PostgreSQL can store. (A batch is one transaction: what it can't would fail the neighbours, too.)
Text = Annotated[str, msgspec.Meta(pattern=r"^[^\u0000]*$")]


class RecordItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An operation and its pair; and what its events shall say of their origin, which decides nothing."""

    op: UUID
    left: UUID
    right: UUID
    trace: Text | None = None
    actor: Text | None = None


class Record(msgspec.Struct, frozen=True):
    """RECORD(op, pair): make a half of each, or refuse it for ever."""

    items: list[RecordItem]


class Ops(msgspec.Struct, frozen=True):
    """RESOLVE, CANCEL, STATUS: messages that name operations only."""

    items: list[UUID]


class ProofItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An operation, and the incarnation of the peer whose word the message rests on."""

    op: UUID
    inc: UUID


class Proofs(msgspec.Struct, frozen=True):
    """KILL and ACK."""

    items: list[ProofItem]


class Verdict(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A participant's answer on one operation; ``other`` is the operation that has the pair."""

    answer: Answer
    why: Reason | None = None
    other: UUID | None = None


class Verdicts(msgspec.Struct, frozen=True):
    """The reply to RECORD, RESOLVE, KILL, CANCEL and ACK: one verdict per item, in the order of the items."""

    inc: UUID
    peer_inc: UUID
    closed: Time
    items: list[Verdict]


class Close(msgspec.Struct, frozen=True):
    """CLOSE(T, S): close up to ``time``; list live operations later than ``since`` (None: own settled)."""

    time: Time
    since: Time | None
    limit: Count


class Closed(msgspec.Struct, frozen=True):
    """``live`` is whole up to ``time``, which is less than asked for where the window was too large."""

    inc: UUID
    peer_inc: UUID
    closed: Time
    settled: Time
    time: Time
    live: list[UUID]
    too_early: bool = False


class Settle(msgspec.Struct, frozen=True):
    """SETTLE(S, T, matched, inc), to the right side only."""

    since: Time
    time: Time
    inc: UUID
    matched: list[UUID]


class Settled(msgspec.Struct, frozen=True):
    """``applied`` is false if another settler was faster or the incarnation changed."""

    applied: bool
    confirmed: Count
    settled: Time


class Forward(msgspec.Struct, frozen=True):
    """Ask for up to ``limit`` cancelled operations that the peer is not yet known to know."""

    limit: Count


class Cancelled(msgspec.Struct, frozen=True):
    inc: UUID
    peer_inc: UUID
    closed: Time
    items: list[UUID]


class Rejoin(msgspec.Struct, frozen=True):
    """REJOIN(inc): the sender was restored from a backup and is ``inc`` from now on."""

    inc: UUID


class AskMark(msgspec.Struct, frozen=True):
    """How do you stand? Answered at any time, also while being restored."""


class Marked(msgspec.Struct, frozen=True):
    """A side's own state, as :class:`tally.protocol.participant.Mark` has it, and what its clock says."""

    inc: UUID
    peer_inc: UUID
    closed: Time
    settled: Time
    restoring: bool
    now: Time | None = None


class LiveItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    op: UUID
    left: UUID
    right: UUID


class Rejoined(msgspec.Struct, frozen=True):
    inc: UUID
    closed: Time
    live: list[LiveItem]


class StatusItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a side holds for an operation: a :class:`tally.protocol.participant.Row`, and the pair if live."""

    row: Row
    why: Reason | None = None
    left: UUID | None = None
    right: UUID | None = None


class Statuses(msgspec.Struct, frozen=True):
    inc: UUID
    peer_inc: UUID
    closed: Time
    items: list[StatusItem]


class PairItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    left: UUID
    right: UUID


class Find(msgspec.Struct, frozen=True):
    """Which operation of each pair is live here?"""

    items: list[PairItem]


class Found(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """``entity`` tells whether the entity that this side owns exists."""

    op: UUID | None
    entity: bool


class Founds(msgspec.Struct, frozen=True):
    inc: UUID
    peer_inc: UUID
    closed: Time
    items: list[Found]


class ListItem(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The live operations of entity ``id``, later than ``after``, at most ``limit``."""

    id: UUID
    after: UUID | None
    limit: Count


class List(msgspec.Struct, frozen=True):
    """``by`` says whose lists are asked for: the entity of the left or of the right side. ``shadow``: add what is
    kept of the peer's entities, because the peer does not answer."""

    by: str
    items: list[ListItem]
    shadow: bool = False


class Listed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One list. ``ops`` in their order, ``entities`` beside them.

    Asked of the side that owns ``by``: ``entities`` is the one entity itself (empty if there is none), and
    the ``others`` are the ids at the other end. Asked of the side that owns the other end: ``entities`` has
    one entity per operation. Entities travel as the JSON that their owner shows, ids as canonical text:
    it sorts as the ids do, and nobody on the way needs more of them.

    Asked with ``shadow``, ``shadows`` is what the one cannot know and keeps a copy of: the entities at the other end,
    one per operation, or the one entity itself. A copy says its age (``as_of``); null stands for none.
    """

    ops: list[str]
    others: list[str]
    entities: list[msgspec.Raw]
    shadows: list[msgspec.Raw] = []


class Lists(msgspec.Struct, frozen=True):
    inc: UUID
    peer_inc: UUID
    closed: Time
    items: list[Listed]
