"""Reads a relation from one end: asks both owners at once, and shows what is live at both.

Assumes that both sides list by operation from the same cursor. What lies up to the last operation of a full
page is complete on that side, so up to the smaller of the two last operations the lists can be intersected;
what is left over is asked for again until the page is full. Lists read at slightly different moments are
harmless: a half is voided only when its peer is dead, so nothing that was shown flickers.

If one side does not answer, what the other one knows is shown, with its copies of the silent one's entities and
their age, and that it is not the whole truth. Copies are asked for only then, so a read that needs none pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from tally.chassis.clock import Clock
from tally.gateway.coalescer import Coalescer
from tally.gateway.evidence import gather
from tally.gateway.observer import Observer
from tally.gateway.participants import Participants
from tally.halves.peer import Failed
from tally.protocol import messages as wire
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

#: Rounds of asking for more when the two lists differ much (they do so only around a crash).
_ROUNDS_MAX = 8
#: What is left of a read's time for asking the one side for its copies, after the other did not answer.
_SHADOWS_S = 0.25
_NOTHING: Final = b"null"


@dataclass(frozen=True, slots=True)
class Missing:
    """A side that did not answer, and why. ``as_of``: nothing that is shown of it is older."""

    side: Side
    service: str
    reason: str
    retry_after_s: float | None = None
    since_ms: int | None = None
    as_of: datetime | None = None


@dataclass(slots=True)
class Page:
    """One page of a relation, read from the ``by`` end.

    ``entity`` is the owner's JSON of the entity asked about; ``items`` are (operation, id, JSON) of the other
    ends. Where its owner did not answer, a JSON is the other side's copy, or None if there is none.
    """

    entity: bytes | None = None
    items: list[tuple[str, str, bytes | None]] = field(default_factory=list)
    next: str | None = None
    missing: list[Missing] = field(default_factory=list)


class NoSuchEntity(Exception):
    """The owner of the entity asked about does not know it."""


class Reader:
    """Reads pages of a relationship from both participants."""

    def __init__(self, participants: Participants, clock: Clock, observer: Observer) -> None:
        self._participants = participants
        self._clock = clock
        self._observer = observer

    async def page(self, by: Side, entity: UUID, after: UUID | None, limit: int, deadline: Deadline) -> Page:
        """The relations of ``entity`` of the side ``by``, later than operation ``after``, at most ``limit``.

        Raises :class:`NoSuchEntity`. Both sides missing gives a page without entity and items.
        """
        page = Page()
        started_s = self._clock.monotonic_s()
        with self._observer.span("fan_out", operation="read"):
            for _ in range(_ROUNDS_MAX):
                whole = await self._round(page, by, entity, after, limit, deadline)
                if whole or len(page.items) > limit or page.missing:
                    break
                after = UUID(page.next)
        self._observer.fanned_out("read", "done", self._clock.monotonic_s() - started_s)
        for missing in page.missing:
            self._observer.degraded("read", missing.service)
        if len(page.items) > limit:
            del page.items[limit:]
            page.next = page.items[-1][0]
        page.missing = [replace(one, as_of=_as_of(page, one.side is by)) for one in page.missing]
        return page

    async def _round(
        self, page: Page, by: Side, entity: UUID, after: UUID | None, limit: int, deadline: Deadline
    ) -> bool:
        """Ask once, add what is live at both; True if nothing lies beyond."""
        item = wire.ListItem(entity, after, limit + 1)
        answers = await self._ask(by, item, deadline)
        own, peer = answers[by], answers[by.peer]
        page.missing = [self._missing(side, told) for side, told in answers.items() if isinstance(told, Failed)]
        if isinstance(own, Failed):
            return isinstance(peer, Failed) or _add_peer_only(page, peer, limit)
        if not own.entities:
            raise NoSuchEntity
        page.entity = bytes(own.entities[0])
        if isinstance(peer, Failed):
            return _add_own_only(page, own, limit)
        return _add_both(page, own, peer, limit)

    async def _ask(self, by: Side, item: wire.ListItem, deadline: Deadline) -> Mapping[Side, wire.Listed | Failed]:
        """What both sides list; what one of them lists with its copies, if the other one does not answer."""
        left_s = deadline.left_s(self._clock.monotonic_s())
        silent = {side: self._participants[side].peer.silent_since_ms is not None for side in Side}
        tickets = {side: self._list(side, by, shadow=silent[side.peer]).submit(item, deadline) for side in Side}
        answers: dict[Side, Any] = await gather(tickets, max(left_s - _SHADOWS_S, left_s / 2))
        failed = [side for side in Side if isinstance(answers[side], Failed)]
        if len(failed) == 1 and not silent[failed[0]] and self._copied(failed[0]):
            there = failed[0].peer
            ticket = self._list(there, by, shadow=True).submit(item, deadline)
            again = await gather({there: ticket}, deadline.left_s(self._clock.monotonic_s()))
            if not isinstance(again[there], Failed):
                answers.update(again)
        return answers

    def _list(self, side: Side, by: Side, *, shadow: bool) -> Coalescer[wire.ListItem, wire.Listed]:
        participant = self._participants[side]
        return (participant.list_with_shadows if shadow else participant.list)[by]

    def _copied(self, side: Side) -> bool:
        return self._participants.relationship.end(side).copy is not None

    def _missing(self, side: Side, told: Failed) -> Missing:
        peer = self._participants[side].peer
        return Missing(side, peer.service, told.reason, told.retry_after_s, peer.silent_since_ms)


def _add_both(page: Page, own: wire.Listed, peer: wire.Listed, limit: int) -> bool:
    full = [listed.ops[-1] for listed in (own, peer) if len(listed.ops) > limit]
    horizon = min(full) if full else None
    live_here = dict(zip(own.ops, own.others, strict=True))
    for op, card in zip(peer.ops, peer.entities, strict=True):
        if (horizon is None or op <= horizon) and (id := live_here.get(op)) is not None:
            page.items.append((op, id, bytes(card)))
    page.next = horizon
    return horizon is None


def _add_own_only(page: Page, own: wire.Listed, limit: int) -> bool:
    cards = own.shadows or [msgspec.Raw(_NOTHING)] * len(own.ops)
    items = [(op, id, _known(card)) for op, id, card in zip(own.ops, own.others, cards, strict=True)]
    return _add(page, own.ops, items, limit)


def _add_peer_only(page: Page, peer: wire.Listed, limit: int) -> bool:
    if peer.shadows and page.entity is None:
        page.entity = _known(peer.shadows[0])
    items: list[tuple[str, str, bytes | None]] = [
        (op, id, bytes(card)) for op, id, card in zip(peer.ops, peer.others, peer.entities, strict=True)
    ]
    return _add(page, peer.ops, items, limit)


def _add(page: Page, ops: list[str], items: list[tuple[str, str, bytes | None]], limit: int) -> bool:
    page.items.extend(items)
    page.next = ops[-1] if len(ops) > limit else None
    return page.next is None


def _known(card: msgspec.Raw) -> bytes | None:
    return None if bytes(card) == _NOTHING else bytes(card)


class _Copy(msgspec.Struct):
    as_of: datetime | None = None


def _as_of(page: Page, entity: bool) -> datetime | None:
    """The age of the oldest copy on the page, which are those of the entity, or those of the items."""
    cards: Iterable[bytes | None] = [page.entity] if entity else (card for _, _, card in page.items)
    ages = (msgspec.json.decode(card, type=_Copy).as_of for card in cards if card is not None)
    return min((age for age in ages if age is not None), default=None)


def member(card: bytes, **fields: object) -> bytes:
    """A JSON object with more fields, without decoding it."""
    more = msgspec.json.encode(fields)
    return card.rstrip()[:-1] + b"," + more[1:]
