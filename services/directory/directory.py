"""The directory as a service: three inboxes into one database, the agents around them, and the routes.

Each inbox has its own place in the stream, so what one of them cannot apply holds up none of the others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Final

from msgspec import Meta

from services.directory import audit, log, projection, saga, states
from services.directory.admin import admin_routes, audit_routes
from services.directory.authors import Authors
from services.directory.conferences import Conferences
from services.directory.events import Events
from services.directory.gauges import Gauges
from services.directory.listen import Listeners
from services.directory.operations import Operations
from services.directory.projection import Projection
from services.directory.reading import Reading
from services.directory.statistics import Statistics
from tally.chassis import migrate
from tally.chassis.agents import working
from tally.chassis.app import Service
from tally.chassis.auth import guards, identified
from tally.chassis.clock import SystemClock
from tally.chassis.database import Connection, Database
from tally.chassis.faults import Faults
from tally.chassis.migrate import Schema, Source
from tally.chassis.signals import Signals
from tally.messaging import rebuild
from tally.messaging.inbox import Delivered, Inbox
from tally.messaging.parked import parked_routes
from tally.messaging.projection import Freshness
from tally.messaging.rebuild import Rebuild
from tally.messaging.stored import StoredSettings, applying
from tally.messaging.stream import Stream

NAME: Final = "directory"
VIEW: Final = f"{NAME}-view"
_HERE: Final = files("services.directory")

SOURCES: Final = (
    Source("chassis", migrate.files(files("tally.chassis").joinpath("migrations"))),
    Source("messaging", migrate.files(files("tally.messaging").joinpath("sql"))),
    rebuild.SOURCE,
    Source(NAME, migrate.files(_HERE.joinpath("migrations"))),
    *(Source(schema, migrate.files(_HERE.joinpath("view"), schema=schema)) for schema in ("live", "shadow")),
)


class DirectorySettings(StoredSettings, frozen=True, kw_only=True):
    """Settings of the directory."""

    port: Annotated[int, Meta(ge=0, le=65535, description="The public port; 0 takes any free one.")] = 8060
    request_deadline_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="Seconds until a request is answered, if its caller gave no deadline; more than the settlement "
            "lag, so that one can wait for one's own write.",
        ),
    ] = 6.0


def directory(settings: DirectorySettings, signals: Signals) -> Service:
    clock = SystemClock(settings.clock_offset_ms)
    database = Database.of(settings, NAME, signals, clock)
    consuming = applying(settings, NAME)
    schema = Schema(database, SOURCES)
    stream = Stream.of(settings, NAME, signals)
    freshness = Freshness(VIEW, stream, clock)
    view = Projection("live")

    async def applied(tx: Connection, delivered: Sequence[Delivered]) -> None:
        await view.apply(tx, delivered)
        await saga.apply(tx, delivered)
        freshness.applied(delivered)

    inboxes = [
        Inbox(stream, VIEW, projection.SUBJECTS, applied, consuming, signals, clock),
        Inbox(stream, f"{NAME}-log", states.SUBJECTS, log.apply, consuming, signals, clock, every_event=True),
        Inbox(stream, f"{NAME}-audit", audit.SUBJECTS, audit.apply, consuming, signals, clock, every_event=True),
    ]
    rebuilding = Rebuild(
        "view", VIEW, projection.SUBJECTS, Projection("shadow"), projection.TABLES, stream, consuming, signals
    )
    listeners, gauges = Listeners(database), Gauges(database, signals, clock)
    reading = Reading(database, freshness, clock)
    _, operators = guards(settings, NAME, clock, signals)
    faults = Faults.of(settings, clock, signals, database)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with database, consuming:
            await schema.wait()
            agents = (freshness.run, rebuilding.run, listeners.run, gauges.run)
            async with stream, working(*(inbox.run for inbox in inboxes), *agents):
                yield

    public = [
        *(route for part in (Authors(reading), Events(reading), Conferences(reading)) for route in part.routes()),
        *Statistics(reading, clock).routes(),
        *Operations(database, listeners, clock).routes(),
        *audit_routes(database, operators),
    ]
    return Service(
        name=NAME,
        settings=settings,
        signals=signals,
        routes=identified(public, settings, clock, signals),
        admin_routes=[
            *admin_routes(rebuilding, database, operators),
            *audit_routes(database, operators),
            *parked_routes(inboxes, operators),
            *(faults.routes(operators) if faults else []),
        ],
        lifespan=lifespan,
        checks={"database": database.check, "schema": schema.check},
        stopping=listeners.close,
        faults=faults,
        clock=clock,
    )
