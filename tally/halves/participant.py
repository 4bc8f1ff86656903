"""A participant: bytes of a message in, bytes of the reply out. What HTTP and the simulation both speak to.

Assumes a store; adds what is not the store's business: decoding, bounds, and the clock.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from uuid import UUID

import msgspec

from tally.chassis.clock import Clock
from tally.halves.peer import Failed
from tally.halves.store import Restoring, Store
from tally.protocol import messages as wire
from tally.protocol.participant import may_close
from tally.protocol.relationship import Relationship, Side

_SIDES = frozenset(side.value for side in Side)


class BadMessage(Exception):
    """The message is not one of the protocol's, or larger than a batch may be."""


@dataclass(frozen=True, slots=True)
class _Handler:
    decoder: msgspec.json.Decoder[object]
    answer: Callable[..., Awaitable[object]]


class Participant:
    """One side of a relationship, answering messages by name."""

    def __init__(self, relationship: Relationship, side: Side, store: Store, clock: Clock, *, lag_ms: int) -> None:
        self.relationship = relationship
        self.side = side
        self.store = store
        self._clock = clock
        self._lag_ms = lag_ms
        #: Told of each CLOSE before it happens: afterwards a mark that went back can't be seen any more.
        self.before_close: Callable[[wire.Close], Awaitable[None]] | None = None
        self._encode = msgspec.json.Encoder().encode
        self._handlers = {
            "record": _handler(wire.Record, self._record),
            "resolve": _handler(wire.Ops, lambda m: store.resolve(m.items)),
            "kill": _handler(wire.Proofs, lambda m: store.kill(m.items)),
            "cancel": _handler(wire.Ops, lambda m: store.cancel(m.items)),
            "ack": _handler(wire.Proofs, lambda m: store.ack(m.items)),
            "forward": _handler(wire.Forward, lambda m: store.forward(min(m.limit, wire.BATCH_MAX))),
            "close": _handler(wire.Close, self._close),
            "rejoin": _handler(wire.Rejoin, store.rejoin),
            "mark": _handler(wire.AskMark, self._mark),
            "status": _handler(wire.Ops, lambda m: store.status(m.items)),
            "find": _handler(wire.Find, lambda m: store.find(m.items)),
            "list": _handler(wire.List, self._list),
        }
        if side is Side.RIGHT:
            self._handlers["settle"] = _handler(wire.Settle, store.settle)

    @property
    def messages(self) -> tuple[str, ...]:
        """The names it answers to: the last part of the path."""
        return tuple(self._handlers)

    async def answer(self, message: str, body: bytes) -> bytes:
        """The reply to ``message``. Raises :class:`BadMessage`, or what the store raises."""
        handler = self._handlers.get(message)
        if handler is None:
            raise BadMessage(f"there is no message {message!r}")
        try:
            decoded = handler.decoder.decode(body)
        except ValueError as error:
            raise BadMessage(str(error)) from None
        items = getattr(decoded, "items", ())
        if len(items) > wire.BATCH_MAX:
            raise BadMessage(f"a batch has at most {wire.BATCH_MAX} items, not {len(items)}")
        return self._encode(await handler.answer(decoded))

    async def _close(self, message: wire.Close) -> wire.Closed:
        """CLOSE, unless this side's clock says that gateways may still be recording: then nothing is closed."""
        if self.before_close is not None:
            await self.before_close(message)
        if may_close(message.time, self._clock.now_ms(), self._lag_ms):
            return await self.store.close(message)
        now = await self.store.status([])
        return wire.Closed(now.inc, now.peer_inc, now.closed, 0, now.closed, [], too_early=True)

    async def _mark(self, message: wire.AskMark) -> wire.Marked:
        mark = await self.store.mark()
        assert isinstance(mark.inc, UUID) and isinstance(mark.peer_inc, UUID)
        return wire.Marked(mark.inc, mark.peer_inc, mark.closed, mark.settled, mark.restoring, self._clock.now_ms())

    async def _record(self, message: wire.Record) -> wire.Verdicts:
        return await self.store.record(message.items, self._clock.now_ms())

    async def _list(self, message: wire.List) -> wire.Lists:
        if message.by not in _SIDES:
            raise BadMessage(f"lists are by left or by right, not by {message.by!r}")
        if any(not 0 < item.limit <= 1000 for item in message.items):
            raise BadMessage("a list has from 1 to 1000 items")
        return await self.store.list(message)

    def __repr__(self) -> str:
        return f"<Participant {self.relationship.name} {self.side.value}>"


def _handler(message: type, answer: Callable[..., Awaitable[object]]) -> _Handler:
    return _Handler(msgspec.json.Decoder(message), answer)


class Local:
    """A participant in this process, as a transport: what the settler's own side is to it.

    Assumes the peer's name is this participant's. A failure of the store is one that was sent.
    """

    def __init__(self, participant: Participant) -> None:
        self._participant = participant

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: object) -> bytes | Failed:
        try:
            return await self._participant.answer(path.rsplit("/", 1)[-1], body)
        except Restoring:
            return Failed(False, "it was restored from a backup and is catching up")

    def silent_since_ms(self, peer: str) -> int | None:
        return None

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        return None
