"""Clients whose requests are recorded, for tests that let the judge of tests/chaos decide."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from uuid import UUID

from tests.chaos import observe
from tests.chaos.checker import check
from tests.chaos.client import Client, Wanted, new_session
from tests.chaos.history import Header, Kind, Recorder, read
from tests.chaos.verdict import described
from tests.integration.statements.stage import DEADLINE_S, Stage

Pairs = Sequence[tuple[UUID, UUID]]
"""Author and event."""

STORM = (Kind.CREATE, Kind.CREATE, Kind.CREATE, Kind.CANCEL, Kind.CANCEL, Kind.LIST_BY_EVENT, Kind.LIST_BY_AUTHOR)


class Recorded:
    """A recording of what happens to some authors and events on a stage."""

    def __init__(self, stage: Stage, recorder: Recorder, pairs: Pairs) -> None:
        self._stage = stage
        self._about = {id for pair in pairs for id in pair}
        self._recorder = recorder
        self._dsns = {service: stage.stack.dsn(service) for service in ("author", "conference")}
        self._clients = 0

    @asynccontextmanager
    async def client(self, gateway: str | None = None) -> AsyncIterator[Client]:
        self._clients += 1
        urls = {**self._stage.stack.urls, "gateway": gateway or self._stage.gateway}
        async with new_session() as session:
            yield Client(self._clients, urls, session, self._recorder)

    async def settled(self) -> None:
        """Return at the next settlement; the recording says whether it came in time."""
        await observe.settled(self._recorder, self._dsns)

    async def violations(self) -> str:
        """Settle, look, and let the judge decide: what is violated, or nothing."""
        self._recorder.phase("healed")
        await self.settled()
        requests = read(self._recorder.path).requests
        named = {request.end.operation for request in requests if request.end is not None} - {None}
        async with self.client() as client:
            await observe.observed(self._recorder, self._dsns, client, filter(None, named), self._about)
        verdicts = check(read(self._recorder.path))
        assert all(verdict.decided for verdict in verdicts)
        return described(verdict for verdict in verdicts if verdict.violations)


def recording(stage: Stage, folder: Path, pairs: Pairs) -> Recorded:
    """Of everything that is asked about these pairs; nobody else may touch them."""
    header = Header(seed=0, scenario="statement", seconds=0, clients=0, request_deadline_s=DEADLINE_S)
    return Recorded(stage, Recorder(folder / "history.jsonl", header), pairs)


async def storm(client: Client, pairs: Pairs, random: Random, seconds: float) -> None:
    """Create, cancel, create again and read these pairs as fast as it goes."""
    until_s = asyncio.get_running_loop().time() + seconds
    while asyncio.get_running_loop().time() < until_s:
        author, event = random.choice(pairs)
        kind = random.choice(STORM)
        wanted = {
            Kind.LIST_BY_EVENT: Wanted(kind, event=event),
            Kind.LIST_BY_AUTHOR: Wanted(kind, author),
        }.get(kind, Wanted(kind, author, event))
        await client.ask(wanted)
