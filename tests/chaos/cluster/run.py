"""One run: a release from nothing, clients and nemesis for a while, then the last look; the release is removed.

Bounded: every step has its own limit. The load goes on until the last fault is mended, so that all of it is seen.
Ctrl-C (or SIGTERM) during the load ends it: what is broken is mended, and the last look follows.
"""

from __future__ import annotations

import asyncio
import platform
import random as chance
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random

import structlog

from tests.chaos.client import Client, new_session
from tests.chaos.cluster.canary import Canaries
from tests.chaos.cluster.nemesis import READY_TIMEOUT_S, Nemesis
from tests.chaos.cluster.place import Doors, NotReady, Place
from tests.chaos.cluster.planted import plant
from tests.chaos.cluster.schedule import schedule
from tests.chaos.downstream import Inbox
from tests.chaos.history import Header, Recorder
from tests.chaos.run import OBSERVER, REQUEST_DEADLINE_S, last_look, new_parent, watching
from tests.chaos.workload import Town, keep_asking, preload
from tests.e2e.cluster import CommandFailed
from tests.e2e.cluster import run as ask_program
from tests.e2e.faults import Fault

THINK_MAX_S = 0.25
"""Of a client, between two requests: the machine has more to do than to be asked."""

TURN_S = 1.0
"""So often a client looks whether it is over."""

AUTHORS, EVENTS = 40, 12
PLANTED = "planted-bug"

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run is to be."""

    seed: int
    seconds: float
    clients: int
    faults: tuple[Fault, ...]
    results: Path
    planted: bool = False

    @property
    def scenario(self) -> str:
        return PLANTED if self.planted else "cluster"


def run(plan: Plan, place: Place) -> Path:
    """Do it; returns where the history is."""
    name = f"chaos-{plan.scenario}-{plan.seed}-{datetime.now(UTC):%Y%m%dT%H%M%S}"
    # Which pod a fault is about is drawn by the module's own generator.
    chance.seed(plan.seed)
    with place.made() as doors:
        if plan.planted:
            plant(place)
        with Recorder(plan.results / f"{name}.jsonl", _header(plan, place)) as recorder:
            asyncio.run(_with(place, doors, plan, recorder))
            return recorder.path


def _header(plan: Plan, place: Place) -> Header:
    nodes = place.kubectl("get", "nodes", "-o", "name").split()
    kubernetes = place.kubectl("version").rpartition("Server Version: ")[2].strip()
    return Header(
        seed=plan.seed,
        scenario=plan.scenario,
        seconds=plan.seconds,
        clients=plan.clients,
        request_deadline_s=REQUEST_DEADLINE_S,
        environment={"nodes": str(len(nodes)), "image": place.image, "faults": " ".join(f.name for f in plan.faults)},
        versions={
            "kubernetes": kubernetes,
            "helm": ask_program("helm", "version", "--short").strip(),
            "python": sys.version.split()[0],
            "aiohttp": version("aiohttp"),
            "system": platform.platform(),
        },
        started_at=datetime.now(UTC).isoformat(),
    )


async def _with(place: Place, doors: Doors, plan: Plan, recorder: Recorder) -> None:
    canaries = Canaries(place)
    async with new_session() as session, watching(recorder):

        def client(number: int) -> Client:
            return Client(number, doors.urls, session, recorder)

        town = Town(Random(plan.seed), await new_parent(session, doors.urls))
        await preload(town, client(OBSERVER), authors=AUTHORS, events=EVENTS)
        recorder.phase("preloaded")
        inbox = Inbox(doors.urls["mail"])
        looking = asyncio.create_task(inbox.keep_looking())
        try:
            await _storm(place, plan, recorder, town, [client(number) for number in range(plan.clients)])
        finally:
            looking.cancel()
            with suppress(asyncio.CancelledError):
                await looking
        recorder.phase("load-ended")
        canaries.told(recorder)
        await asyncio.to_thread(place.wait_ready, READY_TIMEOUT_S)
        await last_look(recorder, town, client(OBSERVER), doors.dsns, None if plan.planted else inbox)


async def _storm(place: Place, plan: Plan, recorder: Recorder, town: Town, clients: list[Client]) -> None:
    until_s = asyncio.get_running_loop().time() + plan.seconds
    nemesis = Nemesis(place, recorder, schedule(plan.faults, Random(plan.seed + 1)))
    striking = asyncio.create_task(nemesis.run(until_s))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, striking.cancel)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_awaited(striking))
            for client in clients:
                random = Random(plan.seed * 1000 + client.number)
                tasks.create_task(_keep_asking_while(striking, town, client, random, until_s))
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


async def _awaited(striking: asyncio.Task[None]) -> None:
    """A nemesis that gives up, or is told to, ends the load; whether all is well is for the last look to say."""
    try:
        await asyncio.wait([striking])
    except asyncio.CancelledError:
        striking.cancel()
        await asyncio.wait([striking])
        raise
    if striking.cancelled():
        log.warning("told to stop: everything is mended, and looked at")
    elif isinstance(error := striking.exception(), NotReady | CommandFailed):
        log.error("no more faults", error=str(error)[-300:])
    elif error is not None:
        raise error


async def _keep_asking_while(
    striking: asyncio.Task[None], town: Town, client: Client, random: Random, until_s: float
) -> None:
    """One client, until the time is over and the last fault is mended, or nobody strikes any more."""
    time = asyncio.get_running_loop().time
    while not striking.done() or (time() < until_s and not striking.cancelled() and striking.exception() is None):
        await keep_asking(town, client, random, time() + TURN_S, THINK_MAX_S)
