"""A gateway as a service: the public routes of a relationship over calls to its two owners.

Assumes that the service brings the owners' addresses. It keeps nothing, so it needs no database to be ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from random import Random
from typing import Annotated, Literal

from msgspec import Meta

from tally.chassis.admin import breaker_routes
from tally.chassis.app import Service
from tally.chassis.auth import guards, identified, token_source
from tally.chassis.calls import Calls
from tally.chassis.client import Client
from tally.chassis.clock import SystemClock
from tally.chassis.faults import Faults
from tally.chassis.signals import Signals
from tally.gateway.cancel import Canceller
from tally.gateway.control import Control
from tally.gateway.create import Creator
from tally.gateway.deferral import Desk
from tally.gateway.deferred import Deferred, DeferredSettings
from tally.gateway.notes import Notes
from tally.gateway.observer import Observed
from tally.gateway.operations import Operations
from tally.gateway.participants import Participants
from tally.gateway.read import Reader
from tally.gateway.routes import RelationRoutes
from tally.gateway.status import StatusReader
from tally.halves.peer import Peer
from tally.halves.transport import HttpTransport
from tally.messaging.stream import Stream
from tally.protocol.relationship import Relationship, Side

_KINDS = ["read", "write"]


class GatewaySettings(DeferredSettings, frozen=True, kw_only=True):
    """Settings of a gateway."""

    hedged_reads: Annotated[
        Literal["on", "off"], Meta(description="Whether a slow read is sent a second time (at most 5 % of them).")
    ] = "off"
    clock_offset_ms: Annotated[int, Meta(description="Shifts the wall clock, for experiments.")] = 0


def gateway(
    relationship: Relationship, name: str, settings: GatewaySettings, signals: Signals, urls: Mapping[str, str]
) -> Service:
    """The service ``name``; ``urls`` says where the owners of the two ends are, by the names of their services."""
    clock = SystemClock(settings.clock_offset_ms)
    client = Client(
        urls,
        signals,
        token_source=token_source(settings, name, clock),
        ca_file=settings.tls_ca_file,
        timeout_s=settings.request_deadline_s,
        clock=clock,
    )
    calls = Calls(client, signals, clock, hedge_reads=settings.hedged_reads == "on")
    transport = HttpTransport(calls)
    observed = Observed(signals, relationship)
    participants = Participants(relationship, {side: Peer(relationship, side, transport) for side in Side}, observed)
    stream = Stream.of(settings, name, signals)
    operations = Operations(stream, relationship, name, clock)
    notes = Notes(stream, kept_s=settings.deferred_max_age_s, replicas=settings.stream_replicas)
    creator = Creator(participants, clock, Random(), observed)
    status = StatusReader(participants, clock)
    relation = RelationRoutes(
        relationship,
        creator,
        Canceller(participants, clock, observed),
        Reader(participants, clock, observed),
        status,
        Desk(stream, operations, notes, clock, Random()),
        clock,
    )
    deferred = Deferred(
        stream,
        operations,
        notes,
        creator,
        status,
        relationship,
        signals,
        clock,
        Random(),
        name=name,
        max_age_s=settings.deferred_max_age_s,
        attempt_s=settings.request_deadline_s,
    )
    _, operators = guards(settings, name, clock, signals)
    faults = Faults(clock, signals) if settings.faults == "on" else None

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with client, stream:
            for side in Side:
                calls.announce(relationship.end(side).service, _KINDS)
            async with asyncio.TaskGroup() as agents:
                working = agents.create_task(deferred.run(), name="deferred")
                yield
                working.cancel()
            await participants.close()

    return Service(
        name=name,
        settings=settings,
        signals=signals,
        routes=identified(relation.routes(), settings, clock, signals),
        admin_routes=[
            *breaker_routes(calls, operators),
            *Control(operations, notes).routes(operators),
            *(faults.routes(operators) if faults else []),
        ],
        lifespan=lifespan,
        checks={"faults": faults.check_ready} if faults else {},
        faults=faults,
        clock=clock,
    )
