"""Ten times as many clients as there is room for: some are refused early, the others are served, and health answers.

The load is the benchmark's: a lean process of its own, which takes as little of the shared machine as it can. Its
clients are closed loops, each with a connection of its own; who is shed comes back when `Retry-After` is over, as the
answer asks, or up to as long again. What they offer is therefore bounded by their number, not by how fast they are
refused.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.bench.candidates.tally_stack import ENVIRONMENT, LIVE_ROWS
from tests.bench.databases import Database, load_entities
from tests.bench.processes import LoadProcess, load_process
from tests.bench.slots import Result, Slot
from tests.integration.resilience.deployment import Answer, Deployment, deployed, median_s, until
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE

pytestmark = pytest.mark.chaos

LEVELS = (64, 128, 256)
"""Clients: the peak is where most is done."""

SECONDS = 4.0
RETRY_AFTER_S = 1.0
GOODPUT_MIN, P99_MAX = 0.8, 3.0
HEALTH_MAX_S = 1.0


@dataclass
class Loaded:
    """A stack with the benchmark's entities, and its load process."""

    stack: LocalStack
    load: LoadProcess
    done: int = 0
    taken: int = 0

    async def run(self, clients: int) -> Result:
        """Creates of pairs that nobody has created before."""
        port = self.stack.places["gateway"].port
        slot = Slot(work="create", clients=clients, first=self.taken, seconds=SECONDS, pause_s=RETRY_AFTER_S, port=port)
        result = await asyncio.to_thread(self.load.run, slot)
        self.done += result.done
        self.taken += result.taken
        return result

    def rows(self) -> tuple[int, int]:
        author, conference = (Database(self.stack.dsn(service)) for service in ("author", "conference"))
        return int(author.value(LIVE_ROWS)), int(conference.value(LIVE_ROWS))


@pytest.fixture
def loaded() -> Iterator[Loaded]:
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally", programs=CORE, ports=free_ports(CORE), env=ENVIRONMENT, supervise=False, durable=False
        ) as stack,
        load_process("-m", "tests.bench.load", environment=os.environ) as load,
    ):
        load_entities(Database(stack.dsn("author")), Database(stack.dsn("conference")))
        yield Loaded(stack, load)


@asynccontextmanager
async def asking_for_health(deployment: Deployment) -> AsyncIterator[list[Answer]]:
    """What the health endpoints of all services answer meanwhile."""
    answers: list[Answer] = []

    async def ask() -> None:
        while True:
            for path in ("/livez", "/readyz"):
                asked = (deployment.ask(service, "GET", path, admin=True) for service in deployment.stack.places)
                answers.extend(await asyncio.gather(*asked))
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(ask())
    try:
        yield answers
    finally:
        asking.cancel()


def rate(result: Result) -> float:
    """Per second of the slot; what was begun in it and answered a little later is in it."""
    return result.done / SECONDS


async def test_ten_times_the_clients_get_as_much_done_nearly_as_fast_and_nothing_is_lost(loaded: Loaded) -> None:
    async with deployed(loaded.stack) as deployment:
        await loaded.run(LEVELS[0])  # warm-up
        results = {clients: await loaded.run(clients) for clients in LEVELS}
        crowd, peak = max(results.items(), key=lambda level: level[1].done)
        shed = await deployment.metric("gateway", "tally_shed_total")
        async with asking_for_health(deployment) as healthy:
            flooded = await loaded.run(10 * crowd)
        shed = await deployment.metric("gateway", "tally_shed_total") - shed
        slowest_s = max(answer.took_s for answer in healthy)
        figures = (
            f"{crowd} clients {rate(peak):.0f}/s, p99 {1e3 * peak.p99_s:.0f} ms; {10 * crowd} clients "
            f"{rate(flooded):.0f}/s, p99 {1e3 * flooded.p99_s:.0f} ms, {flooded.errors}, shed {shed:.0f}; "
            f"health {len(healthy)} x {1e3 * median_s(healthy):.0f} ms, {1e3 * slowest_s:.0f} ms at most"
        )
        print(figures)
        assert set(flooded.errors) <= {"503", "504"}, figures
        assert shed > 0, figures
        assert rate(flooded) >= GOODPUT_MIN * rate(peak), figures
        assert flooded.p99_s <= P99_MAX * peak.p99_s, figures
        assert {answer.status for answer in healthy} == {200}, figures
        assert median_s(healthy) <= HEALTH_MAX_S, figures
        rows: list[tuple[int, int]] = []

        async def alike() -> bool:
            rows.append(await asyncio.to_thread(loaded.rows))
            return rows[-1][0] == rows[-1][1]

        await until(alike, "both databases hold the same halves")
        # Each pair was created once: what was acknowledged is there, and nothing that nobody asked for.
        assert loaded.done <= rows[-1][0] <= loaded.taken
