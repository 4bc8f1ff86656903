"""A gateway as a service: the public routes of a relationship over calls to its two owners.

Assumes that the service brings the owners' addresses. It keeps nothing, so it needs no database to be ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext
from random import Random
from typing import Annotated, Literal

from msgspec import Meta

from tally.chassis.admin import breaker_routes
from tally.chassis.agents import end
from tally.chassis.app import Service
from tally.chassis.auth import guards, identified, token_source
from tally.chassis.calls import READ, Calls
from tally.chassis.client import Client
from tally.chassis.clock import SystemClock
from tally.chassis.faults import Faults
from tally.chassis.signals import Signals
from tally.gateway import history
from tally.gateway.cancel import Canceller
from tally.gateway.control import Control
from tally.gateway.create import Creator
from tally.gateway.deferral import Desk
from tally.gateway.deferred import Deferred, DeferredSettings
from tally.gateway.history import Directory
from tally.gateway.notes import Notes
from tally.gateway.observer import Observed
from tally.gateway.operations import Operations
from tally.gateway.participants import Participants
from tally.gateway.read import Reader
from tally.gateway.report import Reporter
from tally.gateway.routes import RelationRoutes
from tally.gateway.status import StatusReader
from tally.gateway.ui.page import Page
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
    ui: Annotated[
        Literal["off", "read", "full"],
        Meta(description="The page at /ui: none, one to look at, or one that may also act, for whoever can reach it."),
    ] = "read"
    mail_url: Annotated[str | None, Meta(description="The mail inbox whose mails the page lists, for a laptop.")] = None


def gateway(
    relationship: Relationship,
    name: str,
    settings: GatewaySettings,
    signals: Signals,
    urls: Mapping[str, str],
    others: Mapping[str, str] | None = None,
) -> Service:
    """The service ``name``; ``urls`` says where the owners of the two ends are, by the names of their services, and
    ``others`` where those are that it can do without."""
    clock = SystemClock(settings.clock_offset_ms)

    def asking(peers: Mapping[str, str], **more: int) -> Client:
        return Client(
            peers,
            signals,
            token_source=token_source(settings, name, clock),
            ca_file=settings.tls_ca_file,
            clock=clock,
            **more,
        )

    optional = {peer: url for peer, url in (others or {}).items() if peer == history.PEER}
    client = asking({**urls, **optional})
    listening = asking(optional, connections_max=history.LISTENERS_MAX)
    calls = Calls(client, signals, clock, hedge_reads=settings.hedged_reads == "on")
    transport = HttpTransport(calls)
    stream = Stream.of(settings, name, signals)
    reporter = Reporter(stream, relationship, name, signals, clock)
    observed = Observed(signals, relationship, clock, reporter)
    participants = Participants(relationship, {side: Peer(relationship, side, transport) for side in Side}, observed)
    directory = Directory(calls, listening, clock, known=bool(optional))
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
        directory,
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
    control = Control(operations, notes)
    _, operators = guards(settings, name, clock, signals)
    faults = Faults.of(settings, clock, signals)
    page = None
    if settings.ui != "off":
        page = Page(
            relationship,
            settings.ui,
            {**urls, **(others or {})},
            client,
            calls,
            observed,
            stream,
            lambda id: control.take(id, "retry"),
            faults,
            signals,
            clock,
            mail_url=settings.mail_url,
            ca_file=settings.tls_ca_file,
        )

    def stopping() -> None:
        directory.close()
        if page:
            page.close()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with client, listening, stream, page.open() if page else nullcontext():
            for side in Side:
                calls.announce(relationship.end(side).service, _KINDS)
            for peer in optional:
                calls.announce(peer, [READ])
            async with asyncio.TaskGroup() as agents:
                working = agents.create_task(deferred.run(), name="deferred")
                reporting = agents.create_task(reporter.run(), name="reporter")
                yield
                await end(working)
                reporting.cancel()  # once: it sends what is left
            await participants.close()

    return Service(
        name=name,
        settings=settings,
        signals=signals,
        routes=identified([*relation.routes(), *directory.routes()], settings, clock, signals),
        internal_routes=page.routes() if page else (),
        home="/ui" if page else "/docs",
        admin_routes=[
            *breaker_routes(calls, operators),
            *control.routes(operators),
            *(faults.routes(operators) if faults else []),
        ],
        lifespan=lifespan,
        faults=faults,
        stopping=stopping,
        clock=clock,
    )
