"""What the conformance tests say over and over, in one word each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from uuid import UUID

from tally.halves.store import FIRST_INC
from tally.protocol import messages as wire
from tally.protocol.participant import Answer, Message, Reason, Row
from tally.protocol.relationship import Side
from tests.support.stores import Kit, State, counts_seats, inc_id, left_id, op_at, own_of, right_id

#: The participant's clock, and the time of operations unless a test says otherwise.
NOW = 5_000_000

RECORDED = wire.Verdict(Answer.RECORDED)
STALE = wire.Verdict(Answer.STALE)
STRANGER = inc_id(99)


def dead(why: Reason, other: UUID | None = None) -> wire.Verdict:
    return wire.Verdict(Answer.DEAD, why, other)


class Scene:
    """A kit, and pairs and operations that nothing else uses."""

    def __init__(self, kit: Kit) -> None:
        self.kit = kit
        self.side, self.relationship = kit.side, kit.relationship
        self.has_seats = counts_seats(kit.relationship, kit.side)
        self.peer_inc = FIRST_INC[kit.side.peer]
        self._numbers = count(1)

    # -- ids

    def op(self, time_ms: int = NOW) -> UUID:
        return op_at(time_ms, next(self._numbers))

    def ops(self, number: int, time_ms: int = NOW) -> list[UUID]:
        return [self.op(time_ms) for _ in range(number)]

    async def pair(self, *, entity: bool = True, capacity: int | None = None) -> tuple[UUID, UUID]:
        number = next(self._numbers)
        pair = left_id(number), right_id(number)
        if entity:
            await self.kit.add(own_of(self.side, *pair), capacity)
        return pair

    async def pairs_of_one(self, number: int, capacity: int | None = None) -> tuple[UUID, list[tuple[UUID, UUID]]]:
        """An entity of this side, and pairs of it with several of the peer's."""
        first = await self.pair(capacity=capacity)
        own = own_of(self.side, *first)
        others = [next(self._numbers) for _ in range(number)]
        if self.side is Side.LEFT:
            return own, [(own, right_id(n)) for n in others]
        return own, [(left_id(n), own) for n in others]

    # -- messages

    async def record(self, *items: tuple[UUID, tuple[UUID, UUID]], now_ms: int = NOW) -> list[wire.Verdict]:
        reply = await self.kit.store.record([wire.RecordItem(op, *pair) for op, pair in items], now_ms)
        return reply.items

    async def resolve(self, *ops: UUID) -> list[wire.Verdict]:
        return (await self.kit.store.resolve(ops)).items

    async def kill(self, *ops: UUID, inc: UUID | None = None) -> list[wire.Verdict]:
        return (await self.kit.store.kill([wire.ProofItem(op, inc or self.peer_inc) for op in ops])).items

    async def cancel(self, *ops: UUID) -> list[wire.Verdict]:
        return (await self.kit.store.cancel(ops)).items

    async def ack(self, *ops: UUID, inc: UUID | None = None) -> list[wire.Verdict]:
        return (await self.kit.store.ack([wire.ProofItem(op, inc or self.peer_inc) for op in ops])).items

    async def send(self, message: Message, op: UUID, pair: tuple[UUID, UUID]) -> list[wire.Verdict]:
        match message:
            case Message.RECORD:
                return await self.record((op, pair))
            case Message.RESOLVE:
                return await self.resolve(op)
            case Message.KILL:
                return await self.kill(op)
            case Message.CANCEL:
                return await self.cancel(op)
            case Message.ACK:
                return await self.ack(op)

    async def close(self, time_ms: int, since: int | None = None, limit: int = 1000) -> wire.Closed:
        return await self.kit.store.close(wire.Close(time_ms, since, limit))

    async def settle(
        self, since: int, time_ms: int, matched: Sequence[UUID] = (), inc: UUID | None = None
    ) -> wire.Settled:
        return await self.kit.store.settle(wire.Settle(since, time_ms, inc or FIRST_INC[self.side], list(matched)))

    async def status(self, *ops: UUID) -> list[wire.StatusItem]:
        return (await self.kit.store.status(ops)).items

    async def forward(self, limit: int = 100) -> list[UUID]:
        return (await self.kit.store.forward(limit)).items

    # -- situations

    async def live(self, time_ms: int = NOW, pair: tuple[UUID, UUID] | None = None) -> UUID:
        op = self.op(time_ms)
        assert await self.record((op, pair or await self.pair()), now_ms=time_ms) == [RECORDED]
        return op

    async def held(self, row: Row, op: UUID, pair: tuple[UUID, UUID]) -> None:
        """Make this side hold ``op`` as ``row``; CLOSED closes the epoch of its time."""
        match row:
            case Row.LIVE | Row.CANCELLED:
                assert await self.record((op, pair)) == [RECORDED]
            case Row.VOID:
                assert await self.resolve(op) == [dead(Reason.RESOLVED)]
            case Row.CLOSED:
                await self.close(NOW)
        if row is Row.CANCELLED:
            assert await self.cancel(op) == [dead(Reason.CANCELLED)]

    async def row(self, op: UUID) -> Row:
        return Row((await self.status(op))[0].row)

    async def state(self) -> State:
        return await self.kit.state()

    async def taken(self, entity: UUID) -> int:
        return (await self.state()).seats[entity][1]
