"""A service that owns one end of a relationship: its database, its half, its entities, and (on the right) the settler.

Assumes that the service brings its resources and its migrations; everything else follows from the relationship.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from importlib.resources import files
from typing import Annotated, Literal

from msgspec import Meta

from tally.chassis import migrate
from tally.chassis.admin import breaker_routes
from tally.chassis.agents import working
from tally.chassis.app import Service
from tally.chassis.auth import guards, identified, token_source
from tally.chassis.calls import Calls
from tally.chassis.client import Client
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.database import Database
from tally.chassis.faults import Faults
from tally.chassis.migrate import Schema, Source
from tally.chassis.resource import Resource
from tally.chassis.signals import Signals
from tally.halves import observer
from tally.halves import schema as half
from tally.halves.census import Census
from tally.halves.deletions import Deletions
from tally.halves.leadership import Leadership
from tally.halves.participant import Local, Participant
from tally.halves.peer import Peer
from tally.halves.postgres import PostgresStore
from tally.halves.restore import REJOIN_S, Restorer
from tally.halves.restore_routes import restore_routes
from tally.halves.routes import routes
from tally.halves.settler import Settler
from tally.halves.transport import HttpTransport
from tally.messaging import shadow
from tally.messaging.inbox import Inbox
from tally.messaging.outbox import Outbox
from tally.messaging.outbox_routes import outbox_routes
from tally.messaging.parked import parked_routes
from tally.messaging.relay import RelaySettings
from tally.messaging.stream import Stream
from tally.messaging.wal import relay_of
from tally.protocol.relationship import Relationship
from tally.resilience.policy import PolicySettings
from tally.resilience.retry import RetrySettings

#: The outbox may be long after an outage; measuring it takes its time.
RELAY_STATEMENT_S = 10.0
#: A peer's answer to REJOIN holds all that is live: two million attendances.
REPLY_MAX_BYTES = 256 * 1024 * 1024


class OwnerSettings(RelaySettings, frozen=True, kw_only=True):
    """Settings of a service with a database, a half, and events to tell and to hear."""

    settle_lag_s: Annotated[
        float, Meta(gt=0, le=3600, description="The age at which an epoch is closed; more than the gateway's deadline.")
    ] = 2.0
    restored: Annotated[
        Literal["off", "on"],
        Meta(description="The database was restored from a backup: make it whole first. For one start only."),
    ] = "off"


class RightSettings(OwnerSettings, frozen=True, kw_only=True):
    """Settings of the right side's service, which settles."""

    settle_period_s: Annotated[float, Meta(gt=0, le=3600, description="Seconds between rounds of the settler.")] = 1.0


def sources(relationship: Relationship, service: str, package: str | None = None) -> list[Source]:
    """The migrations of a service's database, in their order: what the entity needs, the entity (in the folder
    `migrations` of the service's package), its half, its copy of the other side's entity."""
    side = relationship.side_of(service)
    copy = relationship.end(side.peer).copy
    return [
        Source("chassis", migrate.files(files("tally.chassis").joinpath("migrations"))),
        Source("messaging", migrate.files(files("tally.messaging").joinpath("sql"))),
        Source(service, migrate.files(files(package or f"services.{service}").joinpath("migrations"))),
        Source(relationship.name, half.migrations(relationship, side)),
        *([Source("shadow", shadow.migrations(copy))] if copy is not None else []),
    ]


def shadow_inboxes(
    relationship: Relationship, name: str, stream: Stream, database: Database, signals: Signals, clock: Clock
) -> list[Inbox]:
    """What keeps the service's copy of the other side's entity, if one is declared."""
    copy = relationship.end(relationship.side_of(name).peer).copy
    if copy is None:
        return []
    apply = shadow.Shadow(copy).apply
    return [Inbox(stream, f"{name}-shadow", shadow.subjects(copy), apply, database, signals, clock)]


def owner(
    relationship: Relationship,
    name: str,
    resources: Sequence[Resource],
    settings: OwnerSettings,
    signals: Signals,
    peer_urls: Mapping[str, str],
    package: str | None = None,
) -> Service:
    """The service ``name`` with its resources (each after those it refers to) and its side of ``relationship``;
    ``package`` is where its migrations are, as `sources` is told."""
    side = relationship.side_of(name)
    clock = SystemClock(settings.clock_offset_ms)
    database = Database.of(settings, name, signals, clock)
    schema = Schema(database, sources(relationship, name, package))
    stream = Stream.of(settings, name, signals)
    inboxes = shadow_inboxes(relationship, name, stream, database, signals, clock)
    store = PostgresStore(relationship, side, database)
    participant = Participant(
        relationship,
        side,
        store,
        clock,
        lag_ms=int(settings.settle_lag_s * 1000),
    )
    internal, operators = guards(settings, name, clock, signals)
    other = relationship.end(side.peer).service
    faults = Faults.of(settings, clock, signals, database)
    client = Client(
        peer_urls,
        signals,
        token_source=token_source(settings, name, clock),
        ca_file=settings.tls_ca_file,
        reply_max_bytes=REPLY_MAX_BYTES,
        clock=clock,
    )
    calls = Calls(
        client,
        signals,
        clock,
        settings=PolicySettings(attempt_timeout_s=5.0),
        overrides={(other, "restore"): PolicySettings(attempt_timeout_s=REJOIN_S, retry=RetrySettings(retries_max=0))},
    )
    restorer = Restorer(
        relationship,
        side,
        [resource.name for resource in resources],
        database,
        Peer(relationship, side.peer, HttpTransport(calls), kind="restore"),
        stream,
        signals,
        clock,
        told_restored=settings.restored == "on",
    )
    participant.before_close = restorer.before_close
    deletions = Deletions(relationship, side, resources, database)
    public = [route for resource in resources for route in resource.routes(database, deletions)]
    public = [replace(route, handler=restorer.guarded(route.handler)) for route in public]
    # The relay has connections of its own: a broker that hangs keeps one, and requests must not miss it.
    queue = Database(settings.database_url, f"{name}-relay", pool_max=2, statement_timeout_s=RELAY_STATEMENT_S)
    relay = relay_of(settings, settings.database_url, Outbox(queue, name), stream, signals, clock)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(database)
            await schema.wait()
            await internal.prepare()
            for one in (queue, stream, client):
                await stack.enter_async_context(one)
            calls.announce(other, ["restore"])
            await restorer.look()
            agents = [restorer.run, relay.run, deletions.run, *(inbox.run for inbox in inboxes)]
            if isinstance(settings, RightSettings):
                calls.announce(other, ["settle"])
                leadership = Leadership(relationship, settings.database_url, name)
                stack.push_async_callback(leadership.close)
                settler = Settler(
                    relationship,
                    Peer(relationship, side.peer, HttpTransport(calls), kind="settle"),
                    Peer(relationship, side, Local(participant)),
                    clock,
                    observer.Observed(signals, relationship, clock),
                    lag_s=settings.settle_lag_s,
                    period_s=settings.settle_period_s,
                    leader=restorer.leading(leadership.held),
                    tell_voided=lambda side, ops: store.tell_voided(side, ops, clock.now_ms()),
                    causes=store.causes if signals.traced else None,
                )
                agents.append(settler.run)
                if relationship.end(side).seats:
                    agents.append(Census(relationship, store, signals).run)
            await stack.enter_async_context(working(*agents))
            yield

    return Service(
        name=name,
        settings=settings,
        signals=signals,
        routes=identified(public, settings, clock, signals),
        internal_routes=[replace(route, handler=internal(route.handler)) for route in routes(participant, clock)],
        admin_routes=[
            *breaker_routes(calls, operators),
            *outbox_routes(Outbox(database, name), settings.relay, operators),
            *parked_routes(inboxes, operators),
            *restore_routes(restorer, operators),
            *(faults.routes(operators) if faults else []),
        ],
        lifespan=lifespan,
        checks={"database": database.check, "schema": schema.check, "restore": restorer.check},
        faults=faults,
        clock=clock,
    )
