"""A load with faults switched on, recorded and judged as `make chaos-local` does it, but small and on one stack.

Assumes that the faults strike internal paths only: what clients are told is the gateway's to answer for.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import msgspec

from tally.protocol import operation
from tests.chaos import observe
from tests.chaos.checker import check
from tests.chaos.client import Client
from tests.chaos.history import Header, History, Kind, Recorder, read
from tests.chaos.verdict import described
from tests.chaos.workload import Town, keep_asking, preload
from tests.integration.resilience.deployment import Deployment

CLIENTS = 8
AUTHORS, EVENTS = 16, 8
DEADLINE_S = 2.0
OBSERVER = -1


@dataclass(frozen=True, slots=True)
class Load:
    """How to disturb, for how long, and where the history goes."""

    faults: dict[str, list[dict[str, Any]]]
    seconds: float
    file: Path
    seed: int = 4


async def recorded(deployment: Deployment, load: Load) -> History:
    """The history; the faults are over and both databases were read."""
    await deployment.emptied()  # what lives must be explained by this history
    header = Header(
        seed=load.seed, scenario="faults", seconds=load.seconds, clients=CLIENTS, request_deadline_s=DEADLINE_S
    )
    with Recorder(load.file, header) as recorder:

        def client(number: int) -> Client:
            return Client(number, dict(deployment.stack.urls), deployment.session, recorder)

        conference = await deployment.ask("conference", "POST", "/conference", {"acronym": "FAULTS"})
        town = Town(Random(load.seed), UUID(conference.body["id"]))
        await preload(town, client(OBSERVER), authors=AUTHORS, events=EVENTS)
        recorder.phase("preloaded")
        for service, faults in load.faults.items():
            await deployment.faults(service, *faults)
        until_s = asyncio.get_running_loop().time() + load.seconds
        asking = [keep_asking(town, client(number), Random(number), until_s) for number in range(CLIENTS)]
        await asyncio.gather(*asking)
        recorder.phase("load-ended")
        for service in load.faults:
            assert await deployment.hits(service) > 0
            await deployment.faults(service)
        await observe.recovered(client(OBSERVER), (town.authors[0], town.events[0]))
        recorder.phase("healed")
        dsns = {service: deployment.stack.dsn(service) for service in ("author", "conference")}
        await observe.settled(recorder, dsns)
        await observe.observed(recorder, dsns, client(OBSERVER), dict.fromkeys([*town.unknown, *town.recent]))
    return _own(read(load.file))


def _own(history: History) -> History:
    """Without the operations of earlier tests, which the databases still know of."""
    began = history.phase("preloaded")
    assert began is not None
    for service, database in history.databases.items():
        outbox = [told for told in database.outbox if operation.time_ms(told.op) >= began.wall_ms]
        history.databases[service] = msgspec.structs.replace(database, outbox=outbox)
    return history


def judged(history: History) -> Counter[str]:
    """Asserts every invariant; how the creates ended: done, refused or unknown."""
    verdicts = check(history)
    assert all(verdict.decided and not verdict.violations for verdict in verdicts), described(verdicts)
    creates = [request for request in history.requests if request.start.kind is Kind.CREATE]
    assert all(request.end is not None and request.end.trouble is None for request in creates)
    outcomes = Counter(_outcome(request.end.status) for request in creates if request.end is not None)
    assert outcomes["done"] + outcomes["refused"] + outcomes["unknown"] == len(creates)
    return outcomes


def _outcome(status: int | None) -> str:
    match status:
        case 200 | 201:
            return "done"
        case 504:
            return "unknown"
        case 404 | 409 | 503:
            return "refused"
        case _:
            return f"illogical {status}"
