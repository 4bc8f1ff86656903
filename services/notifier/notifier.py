"""The notifier as a service: an inbox that fills its replica and notes mails, and a mailer that sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from random import Random
from typing import Annotated, Any, Final, Literal

from msgspec import Meta

from services.notifier.mailer import Mailer, SmtpSettings
from services.notifier.mails import Mails
from services.notifier.news import SUBJECTS, News
from tally.chassis import migrate
from tally.chassis.agents import working
from tally.chassis.app import Service
from tally.chassis.auth import guards, identified
from tally.chassis.clock import SystemClock
from tally.chassis.database import Database
from tally.chassis.faults import Faults
from tally.chassis.migrate import Schema, Source
from tally.chassis.settings import SECRET
from tally.chassis.signals import Signals
from tally.messaging.inbox import Inbox
from tally.messaging.parked import parked_routes
from tally.messaging.stored import StoredSettings, applying
from tally.messaging.stream import Stream

NAME: Final = "notifier"

SOURCES: Final = (
    Source("chassis", migrate.files(files("tally.chassis").joinpath("migrations"))),
    Source("messaging", migrate.files(files("tally.messaging").joinpath("sql"))),
    Source(NAME, migrate.files(files("services.notifier").joinpath("migrations"))),
)


class NotifierSettings(StoredSettings, frozen=True, kw_only=True):
    """Settings of the notifier."""

    port: Annotated[int, Meta(ge=0, le=65535, description="The public port; 0 takes any free one.")] = 8050
    smtp_host: Annotated[str, Meta(min_length=1, description="The mail server.")] = "127.0.0.1"
    smtp_port: Annotated[int, Meta(ge=1, le=65535, description="The mail server's port.")] = 1025
    smtp_username: Annotated[str | None, Meta(description="Who we are to the mail server, if it asks.")] = None
    smtp_password: Annotated[str | None, Meta(description="Our password at the mail server.", extra=SECRET)] = None
    smtp_starttls: Annotated[
        Literal["on", "off"], Meta(description="Whether mails travel encrypted (STARTTLS); needed for a password.")
    ] = "off"
    smtp_connections: Annotated[int, Meta(ge=1, le=100, description="Connections to the mail server at once.")] = 4
    mail_from: Annotated[
        str,
        Meta(pattern=r"^[^\r\n]*[^@\s]+@[^@\s]+$", description="The sender; its domain is that of the mails' ids."),
    ] = "Tally <tally@tally.localhost>"
    mail_horizon_s: Annotated[
        float, Meta(gt=0, description="Events that are older than this when they come are not mailed about.")
    ] = 604_800.0

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[str]:
        yield from super().conflicts(values)
        if bool(values.get("smtp_username")) != bool(values.get("smtp_password")):
            yield "TALLY_SMTP_USERNAME and TALLY_SMTP_PASSWORD go together: set both, or neither."
        if values.get("smtp_password") and values.get("smtp_starttls") == "off":
            yield "TALLY_SMTP_PASSWORD would travel in clear: set TALLY_SMTP_STARTTLS=on."


def notifier(settings: NotifierSettings, signals: Signals) -> Service:
    clock = SystemClock(settings.clock_offset_ms)
    database = Database.of(settings, NAME, signals, clock)
    consuming = applying(settings, NAME)
    schema = Schema(database, SOURCES)
    stream = Stream.of(settings, NAME, signals)
    mailer = Mailer(database, _smtp(settings), signals, clock, Random())
    news = News(signals, clock, horizon_s=settings.mail_horizon_s, noted=mailer.wake)
    # Each event, not each state: an attendance that ended before we heard of it was confirmed all the same.
    inbox = Inbox(stream, f"{NAME}-news", SUBJECTS, news.apply, consuming, signals, clock, every_event=True)
    mails = Mails(database, mailer)
    _, operators = guards(settings, NAME, clock, signals)
    faults = Faults.of(settings, clock, signals, database)

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with database, consuming:
            await schema.wait()
            async with stream, working(inbox.run, mailer.run):
                yield
                await mailer.stop()

    return Service(
        name=NAME,
        settings=settings,
        signals=signals,
        routes=identified(mails.routes(), settings, clock, signals),
        admin_routes=[
            *mails.admin_routes(operators),
            *parked_routes([inbox], operators),
            *(faults.routes(operators) if faults else []),
        ],
        lifespan=lifespan,
        checks={"database": database.check, "schema": schema.check},
        faults=faults,
        clock=clock,
    )


def _smtp(settings: NotifierSettings) -> SmtpSettings:
    return SmtpSettings(
        host=settings.smtp_host,
        port=settings.smtp_port,
        sender=settings.mail_from,
        username=settings.smtp_username,
        password=settings.smtp_password,
        starttls=settings.smtp_starttls == "on",
        ca_file=settings.tls_ca_file,
        connections=settings.smtp_connections,
    )
