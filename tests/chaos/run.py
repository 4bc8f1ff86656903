"""One run: a stack of its own on free ports in a temporary folder, clients and nemesis for a while, then the last look.

Bounded: every step has its own limit, and whatever happens, the stack is stopped.
"""

from __future__ import annotations

import asyncio
import platform
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from uuid import UUID

import aiohttp

from tally.local.stack import LocalStack, free_ports
from tests.chaos import downstream, observe
from tests.chaos.cast import ATTENDING, Cast
from tests.chaos.client import Client, Wanted, new_session
from tests.chaos.guests import Guests
from tests.chaos.history import Header, Kind, Recorder, Stall, now_ns
from tests.chaos.nemesis import Nemesis, strikes_of
from tests.chaos.workload import HOT_PAIRS, Town, keep_asking, preload
from tests.support.folders import scratch_folder

ENVIRONMENT = {"TALLY_ACCESS_LOG": "errors", "TALLY_LOG_FORMAT": "json", "TALLY_FAULTS": "on"}
REQUEST_DEADLINE_S = 2.0
"""The services' default: what the checker holds them to."""

OBSERVER = -1
PROBES = 20
STALL_POLL_S = 0.02
STALL_MIN_S = 0.03


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    cast: Cast
    seed: int
    scenario: str
    seconds: float
    clients: int
    authors: int
    events: int
    results: Path


async def run(plan: Plan) -> Path:
    """Do it; returns where the history is."""
    cast = plan.cast
    name = f"chaos-{cast.relationship.name}-{plan.scenario}-{plan.seed}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    with (
        scratch_folder() as folder,
        Recorder(plan.results / f"{name}.jsonl", _header(plan)) as recorder,
    ):
        stack = LocalStack(
            folder / ".tally",
            programs=cast.programs,
            ports=free_ports(cast.programs),
            env=ENVIRONMENT,
            supervise=False,
            durable=True,
        )
        try:
            await asyncio.to_thread(stack.start)
            _quicken(stack)
            await _with(stack, plan, recorder)
        finally:
            await asyncio.to_thread(stack.stop)
            with suppress(OSError):
                shutil.copytree(folder / ".tally" / "log", plan.results / f"{name}-logs")
        return recorder.path


def _quicken(stack: LocalStack) -> None:
    """After a crash PostgreSQL syncs its whole folder, file by file: many seconds in which nothing else is tested."""
    if sys.platform == "linux":
        stack.postgres.execute("ALTER SYSTEM SET recovery_init_sync_method = 'syncfs';\nSELECT pg_reload_conf();")
    stack.postgres.execute("CHECKPOINT")


def _header(plan: Plan) -> Header:
    return Header(
        seed=plan.seed,
        scenario=plan.scenario,
        seconds=plan.seconds,
        clients=plan.clients,
        request_deadline_s=REQUEST_DEADLINE_S,
        environment=ENVIRONMENT,
        versions={"python": sys.version.split()[0], "aiohttp": version("aiohttp"), "system": platform.platform()},
        started_at=datetime.now(UTC).isoformat(),
        relationship=plan.cast.relationship.name,
    )


async def _with(stack: LocalStack, plan: Plan, recorder: Recorder) -> None:
    async with new_session() as session, watching(recorder):

        def client(number: int) -> Client:
            return Client(number, stack.urls, session, recorder, plan.cast)

        town = Town(Random(plan.seed), await new_parent(session, stack.urls, plan.cast), plan.cast)
        await preload(town, client(OBSERVER), authors=plan.authors, events=plan.events)
        recorder.phase("preloaded")
        guests = Guests(stack.urls, stack.folder, session, recorder, town, client, plan.clients)
        await _storm(stack, plan, recorder, town, [client(number) for number in range(plan.clients)], guests)
        recorder.phase("load-ended")
        await asyncio.to_thread(stack.wait_ready)
        followers = ["directory"] if "directory" in stack.places else []
        dsns = {service: stack.dsn(service) for service in (*plan.cast.owners, *followers)}
        inbox = downstream.Inbox(stack.admin_urls["mail"]) if followers else None
        await last_look(recorder, town, client(OBSERVER), dsns, inbox)


async def new_parent(session: aiohttp.ClientSession, urls: Mapping[str, str], cast: Cast = ATTENDING) -> UUID | None:
    """What the events of the run belong to, if they belong to anything."""
    if cast.parent is None:
        return None
    path, body = cast.parent
    async with session.post(urls[cast.event.service] + path, json=body) as answer:
        answer.raise_for_status()
        return UUID((await answer.json())["id"])


async def _storm(
    stack: LocalStack, plan: Plan, recorder: Recorder, town: Town, clients: list[Client], guests: Guests
) -> None:
    until_s = asyncio.get_running_loop().time() + plan.seconds
    strikes = strikes_of(plan.scenario, plan.cast)
    random = Random(plan.seed + 1)
    nemesis = Nemesis(stack, recorder, random, strikes, plan.cast, lambda: town.done, guests.visits)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(nemesis.run(until_s))
        for client in clients:
            tasks.create_task(keep_asking(town, client, Random(plan.seed * 1000 + client.number), until_s))


async def last_look(
    recorder: Recorder, town: Town, client: Client, dsns: dict[str, str], inbox: downstream.Inbox | None
) -> None:
    """Everything runs again: wait until it is settled, and read everything. Without an inbox, nothing of the events."""
    pairs = [(town.authors[i], town.events[i * 3 % len(town.events)]) for i in range(HOT_PAIRS)]
    await observe.recovered(client, pairs[0])
    recorder.phase("healed")
    if (await observe.settled(recorder, dsns, client.cast)).reached:
        await _probe(client, [*pairs, *(town.pair() for _ in range(PROBES - len(pairs)))])
        await observe.settled(recorder, dsns, client.cast)
    await observe.observed(recorder, dsns, client, _to_ask(town))
    if inbox is not None:
        await downstream.followed(recorder, dsns, inbox)


async def _probe(client: Client, pairs: Iterable[tuple[UUID, UUID]]) -> None:
    """Each pair can be cancelled and created: whatever happened, none is stuck."""
    for author, event in pairs:
        for kind in (Kind.CREATE, Kind.CANCEL, Kind.CREATE):
            await client.ask(Wanted(kind, author, event))


def _to_ask(town: Town) -> list[UUID]:
    return list(dict.fromkeys([*town.unknown, *town.recent]))


@asynccontextmanager
async def watching(recorder: Recorder) -> AsyncIterator[None]:
    """Record when this process itself is late."""

    async def watch() -> None:
        while True:
            began_ns = now_ns()
            await asyncio.sleep(STALL_POLL_S)
            late_ns = now_ns() - began_ns - int(STALL_POLL_S * 1e9)
            if late_ns > STALL_MIN_S * 1e9:
                recorder.write(Stall(now_ns(), late_ns))

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
