"""Large deletions: an entity of which very many halves live, or with which very many entities go, is deleted in parts.

The trigger (0002_functions.sql) ends all halves of an entity in the transaction that deletes it, under the lock for
which every RECORD waits. That is right for some thousand; for a hundred thousand the statement would be timed out, each
time it is tried, and nobody could record meanwhile. So a service's DELETE counts first, and a large one is only
**decided** in its transaction: a row of `{name}_deletion`. It is answered 202. The agent carries it out:

1. a part of what lives ends, as by a CANCEL with the reason `deleted`, in a transaction of its own that holds up
   nobody but those who want a seat of the same entity; again, until not more than a part is left;
2. where another resource takes very many entities of the relationship along, a part of those at a time goes through
   1, and is deleted;
3. the entity is deleted as any other is, with the rest and with the row, in one transaction.

Once decided it happens, whichever process dies: any agent goes on with it, so nothing ends for a deletion that does
not come. Until 3 the entity is there to be read, and what is recorded of it meanwhile ends with it.

Locks: an agent holds the row before it asks for the protocol's locks. Nobody who has those waits for the row: agents
skip one that is held, and to decide again waits for nothing but another's INSERT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.resources import files
from typing import Final
from uuid import UUID

import asyncpg
import structlog

from tally.chassis.database import Connection, Database
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource
from tally.protocol.relationship import Relationship, Side

log = structlog.get_logger()

#: As many live halves end in the transaction of the DELETE: RECORDs wait a tenth of a second for them. And as many
#: entities are taken along, for which they wait a quarter.
AT_ONCE_MAX: Final = 5_000
PART_MAX: Final = 1_000
PERIOD_S: Final = 1.0


class Deletions:
    """An agent, and what the DELETE of each resource asks. `resources` are all of the service's."""

    def __init__(
        self,
        relationship: Relationship,
        side: Side,
        resources: Sequence[Resource],
        database: Database,
        *,
        at_once_max: int = AT_ONCE_MAX,
        part_max: int = PART_MAX,
        period_s: float = PERIOD_S,
    ) -> None:
        self._own = relationship.end(side).entity
        self._resources = {resource.name: resource for resource in resources}
        self._database = database
        self._at_once_max = at_once_max
        self._part_max = part_max
        self._period_s = period_s
        self._trouble = ""
        source = files("tally.halves").joinpath("sql", "deletions.sql")
        self._queries = load_queries(source, name=relationship.name, own=self._own)

    async def takes_over(self, tx: Connection, resource: Resource, id: UUID, cascade: bool) -> bool:
        """Whether this deletion is too large for `tx`. Then, once `tx` is committed, it is decided."""
        taken = await self._taken(tx, resource, id, cascade, self._at_once_max)
        if max(len(taken), await self._living(tx, taken, self._at_once_max)) <= self._at_once_max:
            return False
        await tx.execute(self._queries.decide, resource.name, id, cascade)
        return True

    async def run(self) -> None:
        while True:
            trouble = ""
            try:
                while await self.run_once():
                    self._trouble = ""
            except (DatabaseFault, asyncpg.PostgresError) as error:
                trouble = str(error)
            if trouble and trouble != self._trouble:
                log.warning("large deletions do not go on", reason=trouble)
            self._trouble = trouble
            await asyncio.sleep(self._period_s)

    async def run_once(self) -> bool:
        """One part of one deletion. False if there is none, or others are at them all."""
        async with self._database.transaction() as tx:
            row = await tx.fetchrow(self._queries.next, list(self._resources))
            if row is None:
                return False
            await tx.execute(self._queries.origin, row["trace"], row["actor"])
            resource, id, cascade = self._resources[row["resource"]], row["id"], row["cascade"]
            taken = await self._taken(tx, resource, id, cascade, self._part_max)
            if await self._living(tx, taken, self._part_max) > self._part_max:
                await tx.execute(self._queries.end_part, taken, self._part_max)
                return True
            if len(taken) > self._part_max:
                await tx.execute(self._queries.lock_part, taken)
                await tx.execute(self._queries.delete_part, taken)
                return True
            # Locked before it is deleted, as by a request: two that take the same locks in two orders deadlock.
            await tx.fetchrow(resource.queries.lock, id)
            await resource.delete(tx, id, cascade)
            await tx.execute(self._queries.done, resource.name, id)
        log.info("a large deletion is done", entity=resource.name, id=str(id))
        return True

    async def _taken(self, tx: Connection, resource: Resource, id: UUID, cascade: bool, most: int) -> list[UUID]:
        """The entities with halves that go with this one; one more than `most` if there are more."""
        if resource.name == self._own:
            return [id]
        if "takes" not in resource.queries:
            return []
        return [row["id"] for row in await tx.fetch(resource.queries.takes, id, cascade, most + 1)]

    async def _living(self, tx: Connection, taken: list[UUID], most: int) -> int:
        """How many halves of those live; one more than `most` if there are more."""
        return await tx.fetchval(self._queries.living, taken, most + 1) if taken else 0
