"""One settler works at a time: who holds a session's advisory lock in the right side's database.

Assumes nothing depends on it but work that is spared: a settler that wrongly believes to lead is harmless.
"""

from __future__ import annotations

import asyncio
import contextlib

import asyncpg

from tally.chassis.database import KEEPALIVES
from tally.halves.schema import lock_key
from tally.protocol.relationship import Relationship

#: How long connecting, asking for the lock, or asking whether the connection is alive may take.
_PATIENCE_S = 2.0


class Leadership:
    """Asks for the lock on a connection of its own; the lock goes with the connection."""

    def __init__(self, relationship: Relationship, database_url: str, service: str) -> None:
        # Beside the relationship's own lock, which belongs to the messages.
        self._key = lock_key(relationship) ^ 1
        self._url = database_url
        self._name = f"{service}-settler"
        self._connection: asyncpg.Connection[asyncpg.Record] | None = None
        self._held = False

    async def held(self) -> bool:
        """Whether this process leads now. Without a database nobody does."""
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await self._ask()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            await self.close()
            return False

    async def _ask(self) -> bool:
        if self._connection is None or self._connection.is_closed():
            self._held = False
            self._connection = await asyncpg.connect(
                self._url, server_settings={"application_name": self._name, **KEEPALIVES}, timeout=_PATIENCE_S
            )
        if self._held:
            await self._connection.execute("SELECT 1")
        else:
            self._held = await self._connection.fetchval("SELECT pg_try_advisory_lock($1)", self._key)
        return self._held

    async def close(self) -> None:
        """Give the lock up, by closing the connection."""
        connection, self._connection, self._held = self._connection, None, False
        if connection is not None:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=_PATIENCE_S)

    def __repr__(self) -> str:
        return f"<Leadership {self._name} {'held' if self._held else 'not held'}>"
