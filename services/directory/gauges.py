"""How much work is not finished, and how old the oldest of it is: an agent that counts now and then."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from services.directory import log
from tally.chassis.clock import Clock
from tally.chassis.database import Database
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.signals import Signals

_PERIOD_S: Final = 2.0
_log = structlog.get_logger()


class Gauges:
    """The signals of the operation log."""

    def __init__(self, database: Database, signals: Signals, clock: Clock) -> None:
        self._database = database
        self._signals = signals
        self._clock = clock

    async def run(self) -> None:
        while True:
            try:
                await self.run_once()
            except DatabaseFault as fault:
                _log.info("operations are not counted", reason=fault.reason)
            await asyncio.sleep(_PERIOD_S * random.uniform(0.9, 1.1))

    async def run_once(self) -> None:
        for row in await self._database.fetch(log.queries.gauges):
            state, oldest = row["state"], row["oldest"]
            age_s = 0.0 if oldest is None else max(0.0, self._clock.now_ms() / 1000 - oldest.timestamp())
            self._signals.operations(state).set(row["operations"])
            self._signals.operation_oldest_seconds(state).set(age_s)
