"""A participant's database: the product's MemoryStore, with latency, failures, and somebody who watches.

It outlives the processes of its host. A transaction takes a while before it commits; if its database fails the
caller learns nothing, and the change is there or not. The ledger sees every transaction when it commits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from tally.halves.memory import MemoryStore
from tally.protocol.participant import Mark
from tests.simulation.chance import Chance
from tests.simulation.plan import Trouble

if TYPE_CHECKING:
    from tests.simulation.ledger import Ledger

#: What the database will do to the message that this task serves.
TROUBLE: ContextVar[Trouble | None] = ContextVar("TROUBLE", default=None)


_READS = frozenset({"status", "find", "list", "forward"})


class DatabaseFailed(Exception):
    """The connection to the database broke."""


class Database:
    """A ``Store`` for the participant, and what the owning service does with its entities."""

    def __init__(self, store: MemoryStore, ledger: Ledger, chance: Chance) -> None:
        self.store = store
        self.side = store.side
        self._ledger = ledger
        self._chance = chance
        self._transactions = 0

    def __getattr__(self, message: str) -> Callable[..., Coroutine[Any, Any, Any]]:
        """Any message of the store, as a transaction."""
        inner = getattr(self.store, message)

        async def transaction(*arguments: Any) -> Any:
            trouble = TROUBLE.get()
            self._transactions += 1
            if (luck := self._chance.of("transaction", self.side.value, self._transactions)) < 0.3:
                await asyncio.sleep(luck / 60)
            if trouble is Trouble.ROLLED_BACK:
                raise DatabaseFailed
            if message == "record":
                self._ledger.recording(self.side, [item.op for item in arguments[0]])
            reply = await inner(*arguments)
            if message not in _READS:
                self._ledger.committed(self.side, message)
            if trouble is Trouble.COMMITTED:
                raise DatabaseFailed
            return reply

        return transaction

    async def mark(self) -> Mark:
        return await self.store.mark()

    def make(self, entity: UUID, seats: int | None) -> bool:
        if entity in self.store.entities:
            return False
        self.store.entities[entity] = b'{"id":"%s"}' % str(entity).encode()
        if seats is not None:
            self.store.capacity[entity] = seats
        self._ledger.committed(self.side, "make")
        return True

    def delete(self, entity: UUID) -> bool:
        existed = entity in self.store.entities
        self.store.delete(entity)
        self._ledger.committed(self.side, "delete")
        return existed

    def resize(self, entity: UUID, seats: int) -> bool:
        """Refused below the seats taken, and for an entity without seats."""
        if entity not in self.store.capacity or seats < self.store.taken(entity):
            return False
        self.store.capacity[entity] = seats
        self._ledger.committed(self.side, "resize")
        return True
