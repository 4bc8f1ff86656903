"""The two participants of a relationship as a gateway uses them: every message coalesced, every reply remembered.

Assumes one instance per relationship and process. What it remembers is which incarnation each side last
believed its peer to be: the one that a KILL must name when RECORD never left for the other side.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Protocol, TypeVar
from uuid import UUID

from msgspec import Struct

from tally.gateway.coalescer import Coalescer
from tally.gateway.observer import Observer
from tally.halves.peer import Failed, Peer
from tally.protocol import messages as wire
from tally.protocol import operation
from tally.protocol.gateway import SILENT, Dead, Evidence, Recorded
from tally.protocol.participant import EARLY_MAX_MS, Answer
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

Item = TypeVar("Item")


class Marked(Protocol):
    """Any reply that carries the answering side's incarnations."""

    @property
    def inc(self) -> UUID: ...
    @property
    def peer_inc(self) -> UUID: ...
    @property
    def closed(self) -> int: ...


Reply = TypeVar("Reply", bound=Marked)


class Told(Struct, frozen=True):
    """One verdict, and what it proves with the mark of the side that gave it."""

    verdict: wire.Verdict
    evidence: Evidence


_RECORDED: Final = wire.Verdict(Answer.RECORDED)


def _told(reply: wire.Verdicts) -> list[Told]:
    """What a side says to each item. Nearly always it has recorded it, and those are all the same."""
    recorded = Told(_RECORDED, Recorded(reply.inc, reply.peer_inc))
    return [recorded if verdict == _RECORDED else Told(verdict, _evidence(verdict, reply)) for verdict in reply.items]


def _evidence(verdict: wire.Verdict, reply: wire.Verdicts) -> Evidence:
    """A stale proof was refused, so nothing is known of the operation by it."""
    match verdict.answer:
        case Answer.RECORDED:
            return Recorded(reply.inc, reply.peer_inc)
        case Answer.DEAD:
            return Dead(reply.inc, reply.peer_inc, verdict.why, verdict.other)
        case _:
            return SILENT


def _makes_sense(listed: wire.Listed, *, mine: bool) -> bool:
    """Whether as much is beside the operations as there are of them, and the last one, where a page may end, is one."""
    count = len(listed.ops)
    entities, shadows = ((0, 1), (0, count)) if mine else ((count,), (0, 1))
    beside = len(listed.others) == count and len(listed.entities) in entities and len(listed.shadows) in shadows
    return beside and (not count or _is_id(listed.ops[-1]))


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


class Standing(Struct, frozen=True):
    """What a side holds for an operation, and the incarnation that it holds it in."""

    item: wire.StatusItem
    inc: UUID

    def may_have_forgotten(self, op: UUID) -> bool:
        """Whether this side was restored after ``op`` was made, and so may lack what it knew of it: an incarnation is
        drawn at the restore, and tells its time. (``op`` may be ahead of that clock by as much as is let in.)"""
        return operation.time_ms(self.inc) + EARLY_MAX_MS >= operation.time_ms(op)


class Participant:
    """One side, its messages coalesced; ``peer_inc`` and ``closed`` are as last heard."""

    def __init__(self, peer: Peer, observer: Observer) -> None:
        self.peer = peer
        self.side = peer.side
        self.service = peer.service
        self.peer_inc: UUID | None = None
        self.closed = 0

        def watch(message: str) -> Callable[[int], None]:
            return lambda size: observer.coalesced(message, peer.service, size)

        def verdicts(
            message: str, ask: Callable[[Sequence[Item], Deadline], Awaitable[wire.Verdicts | Failed]]
        ) -> Coalescer[Item, Told]:
            async def send(items: Sequence[Item], deadline: Deadline) -> Sequence[Told] | Failed:
                reply = await ask(items, deadline)
                if isinstance(reply, Failed):
                    return reply
                return _told(self.heard(reply))

            return Coalescer(send, observe=watch(message))

        self.record = verdicts("record", peer.record)
        self.resolve = verdicts("resolve", peer.resolve)
        self.kill = verdicts("kill", peer.kill)
        self.cancel = verdicts("cancel", peer.cancel)

        async def find(items: Sequence[wire.PairItem], deadline: Deadline) -> Sequence[wire.Found] | Failed:
            reply = await peer.find(items, deadline)
            return reply if isinstance(reply, Failed) else self.heard(reply).items

        async def status(ops: Sequence[UUID], deadline: Deadline) -> Sequence[Standing] | Failed:
            reply = await peer.status(ops, deadline)
            if isinstance(reply, Failed):
                return reply
            self.heard(reply)
            return [Standing(item, reply.inc) for item in reply.items]

        def lists(by: Side, *, shadow: bool) -> Coalescer[wire.ListItem, wire.Listed]:
            async def send(items: Sequence[wire.ListItem], deadline: Deadline) -> Sequence[wire.Listed] | Failed:
                reply = await peer.list(wire.List(by.value, list(items), shadow), deadline)
                if isinstance(reply, Failed):
                    return reply
                mine = by is self.side
                if not all(_makes_sense(one, mine=mine) for one in reply.items):
                    return Failed(True, "its lists make no sense")
                return self.heard(reply).items

            return Coalescer(send, batch_max=64, observe=watch("list"))

        self.find: Coalescer[wire.PairItem, wire.Found] = Coalescer(find, observe=watch("find"))
        self.status: Coalescer[UUID, Standing] = Coalescer(status, observe=watch("status"))
        self.list: Mapping[Side, Coalescer[wire.ListItem, wire.Listed]]
        self.list = {by: lists(by, shadow=False) for by in Side}
        #: With copies of the peer's entities, for when the peer does not answer.
        self.list_with_shadows = {by: lists(by, shadow=True) for by in Side}

    def heard(self, reply: Reply) -> Reply:
        self.peer_inc = reply.peer_inc
        self.closed = reply.closed  # not the greatest ever: what once was told wrongly must not last
        return reply

    async def close(self) -> None:
        for coalescer in (self.record, self.resolve, self.kill, self.cancel):
            await coalescer.close()

    def __repr__(self) -> str:
        return f"<Participant {self.service} {self.side.value} closed={self.closed}>"


class Participants:
    """Both sides of a relationship."""

    def __init__(
        self,
        relationship: Relationship,
        peers: Mapping[Side, Peer],
        observer: Observer,
    ) -> None:
        self.relationship = relationship
        self.left = Participant(peers[Side.LEFT], observer)
        self.right = Participant(peers[Side.RIGHT], observer)
        self.both = (self.left, self.right)

    def __getitem__(self, side: Side) -> Participant:
        return self.left if side is Side.LEFT else self.right

    @property
    def closed(self) -> int:
        """The latest epoch that either side is known to have closed."""
        return max(self.left.closed, self.right.closed)

    async def close(self) -> None:
        await self.left.close()
        await self.right.close()
