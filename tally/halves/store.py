"""What a store of halves does: one method per message, each one transaction, answered item by item.

Assumes that the caller is the only one to know HTTP. Every method raises :class:`Restoring` while the
database is catching up after a restore; a database that can't be reached raises its own error, and then
nothing is known of what was asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from tally.protocol import messages as wire
from tally.protocol.participant import Mark
from tally.protocol.relationship import Side

#: Void rows are kept this long after their epoch closed, so that an operation's status can say why.
VOID_KEEP_MS = 60_000

#: What lived and was ended is remembered this long: longer than deferred work, which asks for it, can be set to last.
ENDED_KEEP_MS = 31 * 86_400_000

#: Operations that one CLOSE lists at most; a larger window is settled in several rounds.
LIST_MAX = 10_000

#: The incarnations that two new databases start with: known to both, so they agree without talking.
FIRST_INC = {
    Side.LEFT: UUID("00000000-0000-7000-8000-000000000001"),
    Side.RIGHT: UUID("00000000-0000-7000-8000-000000000002"),
}

Item = TypeVar("Item")


class Restoring(Exception):
    """This side was restored from a backup and hasn't rejoined its peer yet: it serves no message."""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What became of the operations of a restored side when it applied its peer's answer, each list in its order."""

    copied: Sequence[UUID]
    orphaned: Sequence[UUID]  # live at the peer, and their entity is lost here: cancelled
    dropped: Sequence[UUID]  # live here only
    cancelled: Sequence[UUID]  # of those dropped, what had been confirmed


class Store(Protocol):
    """A participant's durable state. ``now_ms`` is the participant's clock, in Unix milliseconds."""

    async def record(self, items: Sequence[wire.RecordItem], now_ms: int) -> wire.Verdicts: ...
    async def resolve(self, ops: Sequence[UUID]) -> wire.Verdicts: ...
    async def kill(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts: ...
    async def cancel(self, ops: Sequence[UUID]) -> wire.Verdicts: ...
    async def ack(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts: ...
    async def forward(self, limit: int) -> wire.Cancelled: ...
    async def close(self, message: wire.Close) -> wire.Closed: ...
    async def settle(self, message: wire.Settle) -> wire.Settled: ...
    async def rejoin(self, message: wire.Rejoin) -> wire.Rejoined: ...
    async def status(self, ops: Sequence[UUID]) -> wire.Statuses: ...
    async def find(self, items: Sequence[wire.PairItem]) -> wire.Founds: ...
    async def list(self, message: wire.List) -> wire.Lists: ...
    async def mark(self) -> Mark: ...

    async def pend(self, inc: UUID) -> bool:
        """``inc`` is announced to the peer next; only its answer to that will be applied. False if not restoring."""
        ...

    async def reconcile(self, snapshot: wire.Rejoined, inc: UUID) -> Reconciled | None:
        """Go on as ``inc`` from the peer's answer; None if a later one was announced since."""
        ...


def with_shadows(
    asked: Sequence[wire.ListItem], listed: Sequence[wire.Listed], cards: Mapping[str, bytes], *, mine: bool
) -> list[wire.Listed]:
    """The lists with what this side keeps of the peer's entities, by id. ``mine``: they are lists of this side's."""
    return [
        msgspec.structs.replace(
            one,
            shadows=[msgspec.Raw(cards.get(id, b"null")) for id in (one.others if mine else [str(item.id)])],
        )
        for item, one in zip(asked, listed, strict=True)
    ]


def rounds(items: Sequence[wire.RecordItem]) -> Iterable[list[int]]:
    """Positions of ``items``, in the order of their operations, so that no round names a pair or an operation twice.

    Within a round the items don't depend on one another but for seats, so one statement can decide it.
    """
    todo = sorted(range(len(items)), key=lambda i: items[i].op)
    while todo:
        seen: set[tuple[UUID, UUID] | UUID] = set()
        now: list[int] = []
        later: list[int] = []
        for i in todo:
            keys = ((items[i].left, items[i].right), items[i].op)
            (later if seen.intersection(keys) else now).append(i)
            seen.update(keys)
        yield now
        todo = later
