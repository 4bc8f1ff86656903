"""A notifier's parts on a real database and broker, and a mail server that says what a test wants it to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from itertools import count
from random import Random
from typing import Any
from uuid import UUID, uuid4

from aiosmtpd.smtp import SMTP, Envelope, Session

from services.notifier.mailer import Mailer, SmtpSettings
from services.notifier.news import SUBJECTS, News
from services.notifier.notifier import SOURCES
from tally.chassis.clock import SystemClock
from tally.chassis.database import Database
from tally.chassis.migrate import migrate
from tally.chassis.signals import Signals
from tally.messaging.event import Event, encode
from tally.messaging.inbox import Inbox
from tally.messaging.stream import Stream
from tests.support.postgres import Databases

PATIENCE_S = 20.0
CLOCK = SystemClock()
INC = UUID("00000000-0000-7000-8000-000000000000")
HANG_UP = ""
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class PostOffice:
    """A mail server; `says` is its answer to each mail, None for the usual one, and HANG_UP for none."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []
        self.says: Callable[[EmailMessage], str | bytes | None] = lambda mail: None
        #: Mails that it takes, but does not answer before the moment.
        self.slow: Callable[[EmailMessage], bool] = lambda mail: False
        self.moment = asyncio.Event()
        #: Its answer to a client that says hello, None for the usual one.
        self.greets: Callable[[], str | None] = lambda: None
        self._server: asyncio.Server | None = None
        self._protocols: list[SMTP] = []
        self.port = 0

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str | bytes:
        mail = message_from_bytes(envelope.original_content or b"", policy=policy.default)
        answer = self.says(mail)
        if answer == HANG_UP and server.transport is not None:
            server.transport.abort()
        if answer is not None:
            return answer
        self.mails.append(mail)
        if self.slow(mail):
            await self.moment.wait()
        return "250 2.0.0 Taken"

    async def handle_EHLO(
        self, server: SMTP, session: Session, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        return responses if (answer := self.greets()) is None else [answer]

    async def open(self) -> None:
        loop = asyncio.get_running_loop()

        def protocol() -> SMTP:
            made = SMTP(self, hostname="post.localhost", loop=loop)
            self._protocols.append(made)
            return made

        self._server = await loop.create_server(protocol, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """As a server that dies: connections break."""
        if self._server is not None:
            self._server.close()
            for protocol in self._protocols:
                if protocol.transport is not None:
                    protocol.transport.abort()
            await self._server.wait_closed()
            self._protocols.clear()
            self._server = None

    def ids(self) -> list[str]:
        return [str(mail["Message-ID"]) for mail in self.mails]


@dataclass
class Notifier:
    """One replica, and the events that a test lets it hear."""

    stream: Stream
    database: Database
    inbox: Inbox
    mailer: Mailer
    post: PostOffice
    signals: Signals
    versions: dict[UUID, int] = field(default_factory=dict)
    numbers: Any = field(default_factory=lambda: count(1))

    async def tell(
        self, type: str, subject: UUID, data: dict[str, Any], *, times: int = 1, age_s: float = 0.0
    ) -> Event:
        """Publish an event, several times if wanted, past the broker's memory for duplicates."""
        self.versions[subject] = self.versions.get(subject, 0) + 1
        event = Event(
            id=uuid4(),
            source="/tally/test",
            type=type,
            time=datetime.now(UTC) - timedelta(seconds=age_s),
            subject=subject,
            incarnation=INC,
            entityversion=self.versions[subject],
            traceparent=TRACE,
            data=data,
        )
        context = await self.stream.jetstream()
        for _ in range(times):
            await context.publish(event.stream_subject, encode(event))
        return event

    async def author(
        self, full_name: str = "Ada", email: str | None = "ada@example.org", *, id: UUID | None = None
    ) -> UUID:
        id = id or uuid4()
        await self.tell("author.created", id, {"id": str(id), "full_name": full_name, "email": email})
        return id

    async def event(self, title: str = "Opening", starts_at: str | None = None) -> UUID:
        conference, id = uuid4(), uuid4()
        await self.tell("conference.created", conference, {"id": str(conference), "acronym": "SWAT"})
        await self.tell("event.created", id, event_row(id, conference, title, starts_at))
        return id

    async def attend(self, author: UUID, event: UUID, *, times: int = 1) -> UUID:
        operation = uuid4()
        data = {"operation": str(operation), "author": str(author), "event": str(event)}
        await self.tell("attendance.confirmed", operation, data, times=times)
        return operation

    async def mails(self) -> list[dict[str, Any]]:
        rows = await self.database.fetch("SELECT * FROM mail ORDER BY noted_at, id")
        return [dict(row) for row in rows]

    async def caught_up(self) -> None:
        """Return when all that was told has been applied."""
        last = await self.stream.last_sequence()

        async def applied() -> bool:
            return self.inbox.applied_sequence >= last

        await until(applied)

    async def quiet(self) -> None:
        """Return when all that was told has been applied, and no mail waits."""
        await self.caught_up()
        self.mailer.wake()

        async def nothing_waits() -> bool:
            return not any(mail["state"] == "waiting" for mail in await self.mails())

        await until(nothing_waits)


def event_row(id: UUID, conference: UUID, title: str, starts_at: str | None = None) -> dict[str, Any]:
    return {"id": str(id), "conference_id": str(conference), "seq": 1, "title": title, "starts_at": starts_at}


@asynccontextmanager
async def notifier(
    url: str, address: str, post: PostOffice, *, signals: Signals | None = None, connections: int = 2
) -> AsyncIterator[Notifier]:
    """A replica whose agents run only if the test lets them."""
    signals = signals or Signals("notifier")
    database = Database(address, "notifier")
    await database.start()
    settings = SmtpSettings(
        host="127.0.0.1", port=post.port, sender="Tally <tally@example.net>", connections=connections
    )
    mailer = Mailer(database, settings, signals, CLOCK, Random())
    news = News(signals, CLOCK, horizon_s=3600.0, noted=mailer.wake)
    async with Stream(url, "notifier", signals) as stream:
        inbox = Inbox(stream, "notifier-news", SUBJECTS, news.apply, database, signals, CLOCK, every_event=True)

        async def connected() -> bool:
            return stream.connected

        await until(connected)
        yield Notifier(stream, database, inbox, mailer, post, signals)
        await inbox.close()
    await database.close()


@asynccontextmanager
async def running(*agents: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """They run for the block."""
    tasks = [asyncio.create_task(agent()) for agent in agents]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def working(*notifiers: Notifier) -> AbstractAsyncContextManager[None]:
    """Their agents run for the block."""
    return running(*(run for one in notifiers for run in (one.inbox.run, one.mailer.run)))


def prepare(address: str) -> None:
    """The notifier's schema."""
    asyncio.run(migrate(address, SOURCES))


def database_for(dsn: Databases) -> str:
    return dsn("notifier", prepare)


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
