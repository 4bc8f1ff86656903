"""A message is one statement, however long its batch: one transaction, and one round trip."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest
import pytest_asyncio

from tally.halves.memory import FIRST_INC
from tally.halves.postgres import PostgresStore
from tally.protocol import messages as wire
from tally.protocol.relationship import Side
from tests.contract.stores.scene import NOW, Scene
from tests.support.stores import RIGHT_PARTIES, Party, PostgresKit, left_id, own_of, party_id, right_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

MANY = 50


class Counted:
    """A connection that counts the statements that a store sends."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows
        self.sent = 0

    async def fetchrow(self, query: str, *args: Any) -> Any:
        self.sent += 1
        return await self._rows.fetchrow(query, *args)

    async def fetch(self, query: str, *args: Any) -> Any:
        self.sent += 1
        return await self._rows.fetch(query, *args)


class Batch:
    """Operations in every state that a batch may meet, and a store whose statements are counted."""

    def __init__(self, scene: Scene, connection: Any) -> None:
        self.scene, self.counted = scene, Counted(connection)
        self.store = PostgresStore(scene.relationship, scene.side, self.counted)
        self.live: list[UUID] = []
        self.pairs: list[tuple[UUID, UUID]] = []

    async def filled(self) -> None:
        self.pairs = [await self.scene.pair() for _ in range(MANY)]
        self.live = self.scene.ops(MANY)
        await self.scene.record(*zip(self.live, self.pairs, strict=True))
        await self.scene.cancel(*self.live[::7])

    def ops(self) -> list[UUID]:
        """Live ones, cancelled ones, and some that nobody has heard of."""
        return [*self.live, *self.scene.ops(5)]

    def proofs(self) -> list[wire.ProofItem]:
        return [wire.ProofItem(op, self.scene.peer_inc) for op in self.ops()]

    async def records(self) -> list[wire.RecordItem]:
        """What goes well, what is recorded already, and what has no entity."""
        new = [await self.scene.pair() for _ in range(MANY)]
        orphan = [(left_id(10**9), right_id(10**9))]
        pairs = [*new, *self.pairs, *orphan]
        ops = [*self.scene.ops(MANY), *self.live, self.scene.op()]
        return [wire.RecordItem(op, *pair) for op, pair in zip(ops, pairs, strict=True)]

    def asked(self) -> wire.List:
        own = [own_of(self.scene.side, *pair) for pair in self.pairs]
        return wire.List(self.scene.side.value, [wire.ListItem(id, None, 10) for id in own])


@pytest_asyncio.fixture(loop_scope="session")
async def batch(party: Party, connections: dict[Party, Any]) -> Batch:
    kit = PostgresKit(*party, connections[party])
    await kit.reset()
    batch = Batch(Scene(kit), connections[party])
    await batch.filled()
    return batch


async def _record(batch: Batch) -> Any:
    return await batch.store.record(await batch.records(), NOW)


MESSAGES: dict[str, Callable[[Batch], Awaitable[Any]]] = {
    "record": _record,
    "resolve": lambda batch: batch.store.resolve(batch.ops()),
    "kill": lambda batch: batch.store.kill(batch.proofs()),
    "cancel": lambda batch: batch.store.cancel(batch.ops()),
    "ack": lambda batch: batch.store.ack(batch.proofs()),
    "forward": lambda batch: batch.store.forward(MANY),
    "close": lambda batch: batch.store.close(wire.Close(NOW, None, 1000)),
    "rejoin": lambda batch: batch.store.rejoin(wire.Rejoin(batch.scene.peer_inc)),
    "status": lambda batch: batch.store.status(batch.ops()),
    "find": lambda batch: batch.store.find([wire.PairItem(*pair) for pair in batch.pairs]),
    "list": lambda batch: batch.store.list(batch.asked()),
}


@pytest.mark.parametrize("message", MESSAGES)
async def test_a_batch_is_one_statement(batch: Batch, message: str) -> None:
    await MESSAGES[message](batch)
    assert batch.counted.sent == 1


@pytest.mark.parametrize("party", RIGHT_PARTIES, ids=party_id)
async def test_settling_is_one_statement(batch: Batch) -> None:
    await batch.scene.close(NOW)
    message = wire.Settle(0, NOW, FIRST_INC[Side.RIGHT], batch.live)
    assert (await batch.store.settle(message)).applied
    assert batch.counted.sent == 1
