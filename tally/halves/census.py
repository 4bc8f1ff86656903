"""The census: counts all seats of a relationship now and then, for the metrics.

Assumes the side that has the seats. A count is one statement, and a table with a row per entity; what it costs does not
depend on traffic.
"""

from __future__ import annotations

import asyncio

import structlog

from tally.chassis.database_faults import DatabaseFault
from tally.chassis.signals import Signals
from tally.halves.postgres import PostgresStore
from tally.protocol.relationship import Relationship

log = structlog.get_logger()

PERIOD_S = 15.0


class Census:
    """An agent. A count that fails leaves the numbers as they were: that the database is away shows elsewhere."""

    def __init__(
        self, relationship: Relationship, store: PostgresStore, signals: Signals, *, period_s: float = PERIOD_S
    ) -> None:
        self._store = store
        self._period_s = period_s
        self._taken = signals.seats_taken(relationship.name)
        self._capacity = signals.seats_capacity(relationship.name)

    async def run(self) -> None:
        while True:
            try:
                await self.run_once()
            except DatabaseFault as fault:
                log.debug("the seats were not counted", reason=str(fault))
            await asyncio.sleep(self._period_s)

    async def run_once(self) -> None:
        taken, capacity = await self._store.seats()
        self._taken.set(taken)
        self._capacity.set(capacity)
