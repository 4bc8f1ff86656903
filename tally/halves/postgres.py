"""The PostgreSQL store: every message one function call, so one transaction and one round trip.

Assumes the schema of ``tally.halves.schema``. The functions answer only for what needs an answer of its own
(RECORD: what was not recorded), so that a batch in which all goes well costs one short row.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID, uuid5

import asyncpg
import msgspec

from tally.chassis import context
from tally.chassis.context import Context
from tally.chassis.database_faults import Contended, DatabaseFault
from tally.halves import schema
from tally.halves.store import LIST_MAX, VOID_KEEP_MS, Reconciled, Restoring, rounds, with_shadows
from tally.protocol import messages as wire
from tally.protocol.participant import EARLY_MAX_MS, Answer, Mark, Reason, Row
from tally.protocol.relationship import Relationship, Side

#: What a concurrent transaction did (deleted the entity, or waited for us): the batch may be tried again.
_TRANSIENT = (asyncpg.ForeignKeyViolationError, asyncpg.UniqueViolationError, Contended)

_RECORDED = wire.Verdict(Answer.RECORDED)
_NIL = UUID(int=0)
#: What OpenTelemetry lets a span have.
LINKS_MAX = 128

#: Positions in a batch, the parts it is decided in, and one statement for the items at some positions.
Positions = list[int]
Parts = Iterable[Positions]
Verdicts = list[wire.Verdict]
Call = Callable[[Positions], Coroutine[Any, Any, Any]]


class Rows(Protocol):
    """What the store needs of a database: single statements, each its own transaction."""

    async def fetchrow(self, query: str, *args: Any) -> Any: ...
    async def fetch(self, query: str, *args: Any) -> Any: ...


class PostgresStore:
    """A participant's durable state in PostgreSQL (15 or newer)."""

    def __init__(self, relationship: Relationship, side: Side, rows: Rows) -> None:
        self._rows = rows
        self._sql = _named(schema.queries(relationship, side))
        self._side = side

    # -- messages about operations

    async def record(self, items: Sequence[wire.RecordItem], now_ms: int) -> wire.Verdicts:
        early = now_ms + EARLY_MAX_MS
        verdicts: Verdicts = [_RECORDED] * len(items)
        traces, actors = _said([item.trace for item in items]), _said([item.actor for item in items])

        async def call(chosen: Positions) -> Any:
            return await self._rows.fetchrow(
                self._sql["record"],
                [items[i].op for i in chosen],
                [items[i].left for i in chosen],
                [items[i].right for i in chosen],
                early,
                traces and [traces[i] for i in chosen],
                actors and [actors[i] for i in chosen],
            )

        return _verdicts(await self._batch(call, rounds(items), verdicts), verdicts)

    async def resolve(self, ops: Sequence[UUID]) -> wire.Verdicts:
        return await self._each("resolve", ops)

    async def kill(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts:
        return await self._each("kill", [i.op for i in items], [i.inc for i in items])

    async def cancel(self, ops: Sequence[UUID]) -> wire.Verdicts:
        return await self._each("cancel", ops)

    async def ack(self, items: Sequence[wire.ProofItem]) -> wire.Verdicts:
        row = await self._rows.fetchrow(self._sql["ack"], [i.op for i in items], [i.inc for i in items])
        return _verdicts(_serving(row), [])

    # -- the settler's messages

    async def forward(self, limit: int) -> wire.Cancelled:
        row = _serving(await self._rows.fetchrow(self._sql["forward"], limit))
        return wire.Cancelled(row["inc"], row["peer_inc"], row["closed"], row["ops"])

    async def close(self, message: wire.Close) -> wire.Closed:
        limit = min(message.limit, LIST_MAX)
        row = _serving(await self._rows.fetchrow(self._sql["close"], message.time, message.since, limit, VOID_KEEP_MS))
        return wire.Closed(row["inc"], row["peer_inc"], row["closed"], row["settled"], row["upto"], row["live"] or [])

    async def settle(self, message: wire.Settle) -> wire.Settled:
        row = _serving(
            await self._rows.fetchrow(self._sql["settle"], message.since, message.time, message.inc, message.matched)
        )
        return wire.Settled(row["applied"], row["confirmed"], row["settled"])

    async def rejoin(self, message: wire.Rejoin) -> wire.Rejoined:
        row = _serving(await self._rows.fetchrow(self._sql["rejoin"], message.inc))
        halves = zip(row["ops"] or [], row["lefts"] or [], row["rights"] or [], strict=True)
        return wire.Rejoined(row["inc"], row["closed"], [wire.LiveItem(*half) for half in halves])

    # -- after a restore of this side

    async def pend(self, inc: UUID) -> bool:
        return await self._rows.fetchrow(self._sql["pend"], inc) is not None

    async def reconcile(self, snapshot: wire.Rejoined, inc: UUID) -> Reconciled | None:
        live = snapshot.live
        row = await self._rows.fetchrow(
            self._sql["reconcile"],
            inc,
            snapshot.inc,
            snapshot.closed,
            [item.op for item in live],
            [item.left for item in live],
            [item.right for item in live],
        )
        if not row["applied"]:
            return None
        return Reconciled(row["copied"], row["orphaned"], row["dropped"], row["cancelled"])

    # -- reads

    async def status(self, ops: Sequence[UUID]) -> wire.Statuses:
        row = _serving(await self._rows.fetchrow(self._sql["status"], ops))
        items = [
            wire.StatusItem(Row(held), _reason(why), left, right)
            for held, why, left, right in zip(row["rows"], row["whys"], row["lefts"], row["rights"], strict=True)
        ]
        return wire.Statuses(row["inc"], row["peer_inc"], row["closed"], items)

    async def seats(self) -> tuple[int, int]:
        """Seats taken and seats there are, where this side has any."""
        row = await self._rows.fetchrow(self._sql["seats"])
        return row["taken"], row["capacity"]

    async def tell_voided(self, side: Side, ops: Sequence[UUID], now_ms: int) -> None:
        """Puts into the outbox, on the right side, that the settler voided lone halves of `side`. Telling it twice
        tells it once: an event's id follows from its operation."""
        ids = [uuid5(op, f"voided {side.value}") for op in ops]
        await self._rows.fetch(self._sql["voided"], ids, ops, now_ms * 1000, side.value)

    async def causes(self, ops: Sequence[UUID]) -> list[Context]:
        """On the right side: the recorded requests that created some operations, at most as many as a span links."""
        rows = await self._rows.fetch(self._sql["causes"], ops, LINKS_MAX)
        return [cause for row in rows if (cause := context.linked(row["trace"])) is not None]

    async def find(self, items: Sequence[wire.PairItem]) -> wire.Founds:
        row = _serving(await self._rows.fetchrow(self._sql["find"], [i.left for i in items], [i.right for i in items]))
        found = [wire.Found(op, entity) for op, entity in zip(row["ops"], row["entities"], strict=True)]
        return wire.Founds(row["inc"], row["peer_inc"], row["closed"], found)

    async def list(self, message: wire.List) -> wire.Lists:
        mine = Side(message.by) is self._side
        rows = await self._rows.fetch(
            self._sql["list_own" if mine else "list_peer"],
            [i.id for i in message.items],
            [i.after or _NIL for i in message.items],
            [i.limit for i in message.items],
        )
        if not rows:
            row = await self._mark()
            return wire.Lists(row["inc"], row["peer_inc"], row["closed"], [])
        first = _serving(rows[0])
        listed = [_listed(row, mine) for row in rows]
        if message.shadow and "shadow" in self._sql:
            listed = with_shadows(message.items, listed, await self._shadows(message.items, listed, mine), mine=mine)
        return wire.Lists(first["inc"], first["peer_inc"], first["closed"], listed)

    async def mark(self) -> Mark:
        row = await self._rows.fetchrow(self._sql["mark"])
        return Mark(row["inc"], row["peer_inc"], row["closed"], row["settled"], row["restoring"])

    # -- inside

    async def _shadows(
        self, asked: Sequence[wire.ListItem], listed: Sequence[wire.Listed], mine: bool
    ) -> dict[str, bytes]:
        """The copies of the peer's entities that are shown, by id. A copy is old anyway: no need for one snapshot."""
        ids = {UUID(id) for one in listed for id in one.others} if mine else {item.id for item in asked}
        rows = await self._rows.fetch(self._sql["shadow"], list(ids))
        return {row["id"]: row["card"].encode() for row in rows}

    async def _each(self, query: str, ops: Sequence[UUID], incs: Sequence[UUID] | None = None) -> wire.Verdicts:
        """Send a message about single operations, each operation once in a statement."""
        verdicts: Verdicts = [_RECORDED] * len(ops)

        async def call(chosen: Positions) -> Any:
            proofs = () if incs is None else ([incs[i] for i in chosen],)
            return await self._rows.fetchrow(self._sql[query], [ops[i] for i in chosen], *proofs)

        return _verdicts(await self._batch(call, _distinct(ops), verdicts), verdicts)

    async def _batch(self, call: Call, parts: Parts, verdicts: Verdicts) -> Any:
        """Decide the parts of a batch, one after the other, into ``verdicts``; the mark is of the last one.

        A fault after the first of several calls is one after which something may have been done.
        """
        reply = None
        calls = 0

        async def counted(chosen: Positions) -> Any:
            nonlocal calls
            answer = await call(chosen)
            calls += 1
            return answer

        try:
            for chosen in parts:
                reply = await _decided(counted, chosen, verdicts)
        except DatabaseFault as fault:
            if calls and fault.nothing_done:
                raise type(fault)(fault.reason, nothing_done=False) from fault
            raise
        return reply or await self._mark()

    async def _mark(self) -> Any:
        return _serving(await self._rows.fetchrow(self._sql["mark"]))


async def _decided(call: Call, chosen: Positions, verdicts: Verdicts) -> Any:
    """Run ``call`` for the items ``chosen`` until none is in conflict, and fill in their ``verdicts``.

    A batch that fails as a whole is tried again, then item by item, so that one item fails alone.
    """
    reply = None
    for attempt in range(4):
        try:
            reply = _serving(await call(chosen))
        except _TRANSIENT:
            if attempt >= 1 and len(chosen) > 1:
                for i in chosen:
                    reply = await _decided(call, [i], verdicts)
                return reply
            continue
        chosen = _fill(reply, chosen, verdicts)
        if not chosen:
            return reply
    raise Contended(f"{len(chosen)} operations kept losing to concurrent transactions", nothing_done=False)


def _fill(reply: Any, chosen: Positions, verdicts: Verdicts) -> Positions:
    """Enter what ``reply`` answers for; return the positions that are to be sent again."""
    again: Positions = []
    for ord_, why, other in zip(reply["ords"] or (), reply["whys"] or (), reply["others"] or (), strict=True):
        position = chosen[ord_ - 1]
        match why:
            case "conflict":
                again.append(position)
            case "stale":
                verdicts[position] = wire.Verdict(Answer.STALE)
            case _:
                verdicts[position] = wire.Verdict(Answer.DEAD, _reason(why), other)
    return again


def _said(texts: list[str | None]) -> list[str | None] | None:
    """None where nothing is said: most operations are in no recorded trace, and by nobody in particular."""
    return texts if any(texts) else None


def _distinct(ops: Sequence[UUID]) -> list[list[int]]:
    if len(set(ops)) == len(ops):
        return [list(range(len(ops)))] if ops else []
    return [[i] for i in range(len(ops))]


def _serving(row: Any) -> Any:
    if row["restoring"]:
        raise Restoring
    return row


def _reason(why: str | None) -> Reason | None:
    return None if why is None else Reason(why)


def _verdicts(row: Any, items: list[wire.Verdict]) -> wire.Verdicts:
    return wire.Verdicts(row["inc"], row["peer_inc"], row["closed"], items)


def _listed(row: Any, mine: bool) -> wire.Listed:
    cards = [row["card"]] if mine else row["cards"] or []
    return wire.Listed(row["ops"] or [], row["others"] or [], [msgspec.Raw(card) for card in cards if card is not None])


def _named(text: str) -> dict[str, str]:
    """``-- name: x`` blocks as a mapping."""
    blocks = text.split("-- name: ")[1:]
    return {block.split("\n", 1)[0].strip(): block.split("\n", 1)[1].strip() for block in blocks}
