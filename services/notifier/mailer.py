"""Sends the mails that wait: settings, constructor, `run`, `run_once`. Any number of processes may.

A mail is claimed for a while (`CLAIM_S`), sent, and marked; one whose process died is claimed again. What the server
answers decides:

    accepted             sent
    5xx                  failed: it says no, and will say no again. An operator may have it tried again.
    4xx                  later, after a growing pause
    no server, no answer later, all of them: they are let go, and the agent itself waits. Nothing is lost by an outage.

A mail that the server took, and of which we could not note that, is sent again, with the same Message-ID and date.

Assumes nothing of the order in which authors, events and attendances are told: a mail whose author or event is not
known yet waits for it, for `UNKNOWN_MAX_S` at most. An author without an address gets none: it is suppressed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from random import Random
from typing import Final, Literal

import aiosmtplib
import structlog
from aiosmtplib import SMTP
from aiosmtplib.errors import SMTPException, SMTPRecipientsRefused, SMTPResponseException
from msgspec import Struct

from services.notifier.letters import Mail, letter
from services.notifier.news import KINDS
from services.notifier.news import queries as replica
from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.database import Database, DatabaseFault, Record, load_queries, storable
from tally.chassis.signals import Signals

queries: Final = load_queries(files("services.notifier").joinpath("mail.sql"))

#: How long a claimed mail is nobody else's; and until when in that time its sending may begin.
CLAIM_S: Final = 60.0
_BEGIN_S: Final = 25.0
_BATCH_MAX: Final = 64
#: How long a mail waits for its author or event to be told of.
UNKNOWN_MAX_S: Final = 3600.0
#: How long the name and address of a deleted author are kept.
FORGET_AFTER: Final = timedelta(days=7)
_FORGET_PERIOD_S: Final = 600.0
_SMTP_TIMEOUT_S: Final = 15.0
#: Between two looks, if nobody says that there is something.
_POLL_S: Final = 1.0
#: Doubled each time, with jitter: between tries of one mail, and between tries of a server that is away.
_MAIL_BACKOFF_S: Final = (1.0, 300.0)
_SERVER_BACKOFF_S: Final = (0.2, 10.0)
_AGAIN: Final = 400
_NEVER: Final = 500

log = structlog.get_logger()


class SmtpSettings(Struct, frozen=True, kw_only=True):
    """Where mails go."""

    host: str
    port: int
    sender: str
    username: str | None = None
    password: str | None = None
    starttls: bool = False
    ca_file: str | None = None
    connections: int = 4


class ServerAway(Exception):
    """The mail server can't be reached, or does not let us in."""


class _Refused(Exception):
    """The server answered that it does not take this mail: `again` if it may later. It says why in any encoding."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(storable(f"{code} {text}"))
        self.again = _AGAIN <= code < _NEVER


class Mailer:
    """The agent."""

    def __init__(self, database: Database, settings: SmtpSettings, signals: Signals, clock: Clock, random: Random):
        self._database = database
        self._settings = settings
        self._signals = signals
        self._clock = clock
        self._random = random
        self._wake = asyncio.Event()
        self._trouble = ""
        self._forgot_s = clock.monotonic_s()
        signals.mails_total.initialise(kind=KINDS, outcome=["sent", "failed", "suppressed"])
        signals.mails_waiting().set(0)
        signals.mail_oldest_seconds().set(0)

    def wake(self) -> None:
        """There may be mails to send."""
        self._wake.set()

    async def run(self) -> None:
        """Sends for ever."""
        pause_s = _SERVER_BACKOFF_S[0]
        while True:
            try:
                self._wake.clear()
                sent = await self.run_once()
                self._now("")
                pause_s = _SERVER_BACKOFF_S[0]
                if not sent:
                    await self._rest()
            except (ServerAway, DatabaseFault) as error:
                self._now(str(error))
                with contextlib.suppress(DatabaseFault):
                    await self._measure()
                await asyncio.sleep(pause_s * self._random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, _SERVER_BACKOFF_S[1])

    async def run_once(self) -> int:
        """Claim mails and deal with each: how many. Raises `ServerAway`; what was claimed is free again then."""
        rows = await self._database.fetch(queries.claim, _BATCH_MAX, CLAIM_S)
        ready = [(row, mail) for row in rows if (mail := await self._ready(row)) is not None]
        if ready:
            until_s = self._clock.monotonic_s() + _BEGIN_S
            waiting = iter(ready)
            lanes = range(min(self._settings.connections, len(ready)))
            ends = await asyncio.gather(*(self._send_all(waiting, until_s) for _ in lanes), return_exceptions=True)
            left = list(waiting)
            failures = [end for end in ends if isinstance(end, BaseException)]
            for row, _ in left:
                await self._database.execute(queries.free, row["id"])
            for failure in failures:
                raise failure
        return len(rows)

    # --- one mail

    async def _ready(self, row: Record) -> Mail | None:
        """The mail as it is sent; None if it can't be sent, or not yet."""
        if not (row["author_known"] and row["event_known"]):
            what = "event" if row["author_known"] else "author"
            age_s = self._clock.now_ms() / 1000 - row["noted_at"].timestamp()
            gone = what == "author" and row["data"].get("code") in ("author-not-found", "both-not-found")
            if age_s > UNKNOWN_MAX_S or gone:
                await self._end(row, "suppressed", f"{what}-unknown")
            else:
                await self._later(row, f"{what}-unknown", 5.0)
        elif not row["email"]:
            await self._end(row, "suppressed", "no-address")
        else:
            try:
                return letter(dict(row), self._settings.sender)
            except Exception as error:  # an address that is none; the mail's fault, not the server's
                await self._end(row, "failed", f"it can't be written: {storable(str(error))}")
        return None

    async def _send_all(self, waiting: Iterable[tuple[Record, Mail]], until_s: float) -> None:
        """One connection's share. A mail in hand when the server goes away is let go."""
        async with contextlib.AsyncExitStack() as stack:
            server: SMTP | None = None
            for row, mail in waiting:
                if self._clock.monotonic_s() > until_s:
                    await self._database.execute(queries.free, row["id"])
                    continue
                try:
                    server = server or await self._connected(stack)
                    await self._send(server, row, mail)
                except ServerAway:
                    await self._database.execute(queries.free, row["id"])
                    raise

    async def _connected(self, stack: contextlib.AsyncExitStack) -> SMTP:
        settings = self._settings
        server = SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=_SMTP_TIMEOUT_S,
            start_tls=settings.starttls,
            cert_bundle=settings.ca_file,
            username=settings.username,
            password=settings.password,
        )
        try:
            await server.connect()
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            raise ServerAway(f"the mail server is away: {_said(error)}") from error
        stack.push_async_callback(_leave, server)
        return server

    async def _send(self, server: SMTP, row: Record, mail: Mail) -> None:
        links = [cause] if (cause := context.linked(row["trace"])) is not None else []
        with self._signals.span("mail", links=links, operation_id=row["operation"], kind=row["kind"]) as span:
            try:
                await _handed_over(server, mail)
            except _Refused as refused:
                span.set(outcome="later" if refused.again else "failed")
                if refused.again:
                    await self._later(row, str(refused), self._pause_s(row["attempts"]))
                else:
                    await self._end(row, "failed", str(refused))
            else:
                span.set(outcome="sent")
                await self._end(row, "sent", None)

    async def _end(self, row: Record, state: Literal["sent", "failed", "suppressed"], reason: str | None) -> None:
        if await self._database.execute(queries.end, row["id"], state, reason) == "UPDATE 1":
            self._signals.mails_total(row["kind"], state).inc()
        if state == "failed":
            log.warning("a mail failed", operation=str(row["operation"]), kind=row["kind"], reason=reason)

    async def _later(self, row: Record, reason: str, pause_s: float) -> None:
        await self._database.execute(queries.later, row["id"], pause_s, reason)

    def _pause_s(self, attempts: int) -> float:
        first_s, longest_s = _MAIL_BACKOFF_S
        return min(first_s * 2.0 ** min(attempts - 1, 16), longest_s) * self._random.uniform(0.5, 1.0)

    # --- between mails

    async def _rest(self) -> None:
        await self._measure()
        if self._clock.monotonic_s() - self._forgot_s > _FORGET_PERIOD_S:
            self._forgot_s = self._clock.monotonic_s()
            await self._forget()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_POLL_S):
                await self._wake.wait()

    async def _measure(self) -> None:
        row = await self._database.fetchrow(queries.waiting)
        assert row is not None, "an aggregate has one row"
        self._signals.mails_waiting().set(row["rows"])
        self._signals.mail_oldest_seconds().set(row["oldest_s"])

    async def _forget(self) -> None:
        now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
        await self._database.execute(replica.forget, now - FORGET_AFTER)

    def _now(self, trouble: str) -> None:
        """Logged when it changes, not each time that it is found."""
        if trouble and trouble != self._trouble:
            log.warning("mails wait", reason=trouble)
        elif self._trouble and not trouble:
            log.info("mails are sent again")
        self._trouble = trouble

    def __repr__(self) -> str:
        return f"<Mailer to {self._settings.host}:{self._settings.port} {self._trouble or 'well'}>"


async def _handed_over(server: SMTP, mail: Mail) -> None:
    """Returns when the server has accepted it. Raises `_Refused` for a no, `ServerAway` for no answer."""
    try:
        await server.sendmail(mail.sender, [mail.recipient], mail.content)
    except SMTPRecipientsRefused as error:
        [refused, *_] = error.recipients
        raise _Refused(refused.code, refused.message) from error
    except aiosmtplib.SMTPServerDisconnected as error:
        raise ServerAway(f"the mail server hung up: {_said(error)}") from error
    except SMTPResponseException as error:
        if error.code == 421:  # it closes the connection: that is about the server, not about the mail
            raise ServerAway(f"the mail server is closing: {_said(error)}") from error
        raise _Refused(error.code, error.message) from error
    except aiosmtplib.SMTPNotSupported as error:
        raise _Refused(_NEVER, str(error)) from error
    except (SMTPException, OSError, TimeoutError) as error:
        raise ServerAway(f"the mail server is away: {_said(error)}") from error


async def _leave(server: SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError, TimeoutError):
        await server.quit(timeout=1.0)
    server.close()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
