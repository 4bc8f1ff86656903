"""Sends the mails that wait: settings, constructor, `run`, `run_once`, `stop`. Any number of processes may.

A mail is claimed for a while (`CLAIM_S`), which is prolonged as long as its sending lasts, sent, and marked; one whose
process died is claimed again. What the server answers decides:

    accepted   sent
    5xx        failed: it says no, and will say no again. An operator may have it tried again.
    4xx        later, after a growing pause
    nothing    later, too, and the connection is given up: it was silent, hung up, or said that it closes (421). It may
               have the mail. The next ones get a new connection; if that ends in the same way, the server is away.
    no server  later, all of them: they are let go untried, and the agent itself waits. Nothing is lost by an outage.

A mail that the server took, and of which we did not live to note that, is sent again, with the same Message-ID and
date. So that this stays rare, what the database was away for is noted when it is back, before anything is claimed; who
is stopped ends what it has begun, and lets go of the rest; and a server that was given a mail may take its time (RFC
5321, 4.5.3.2.6). Nobody else waits for it: `run_once` leaves that connection behind. A mail that holds connections for
long is tried the more seldom, and in each batch after those that were tried less, so that some mails that never get an
answer don't stop the others.

Assumes nothing of the order in which authors, events and attendances are told: a mail whose author or event is not
known yet waits for it, for `UNKNOWN_MAX_S` at most. An author without an address gets none: it is suppressed.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from datetime import timedelta
from importlib.resources import files
from random import Random
from typing import Final, Literal

import aiosmtplib
import structlog
from aiosmtplib import SMTP, SMTPResponse
from aiosmtplib.errors import SMTPException, SMTPHeloError, SMTPRecipientsRefused, SMTPResponseException
from aiosmtplib.typing import Default
from msgspec import Struct

from services.notifier.letters import Mail, letter
from services.notifier.news import KINDS
from services.notifier.news import queries as replica
from tally.chassis import context
from tally.chassis.clock import Clock, utc
from tally.chassis.database import Database, Record, storable
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals

queries: Final = load_queries(files("services.notifier").joinpath("mail.sql"))

#: How long a claimed mail is nobody else's; until when in that time its sending may begin; how often that prolongs it.
CLAIM_S: Final = 60.0
_BEGIN_S: Final = 25.0
_KEEP_PERIOD_S: Final = 15.0
#: How long connections that still send are waited for when nothing more is to be sent.
_SLOW_S: Final = 1.0
#: How long who is stopped waits for the mails that are being sent.
_STOP_S: Final = 3.0
_BATCH_MAX: Final = 64
#: How long a mail waits for its author or event to be told of.
UNKNOWN_MAX_S: Final = 3600.0
#: How long the name and address of a deleted author are kept.
FORGET_AFTER: Final = timedelta(days=7)
_FORGET_PERIOD_S: Final = 600.0
#: How long an answer is waited for: to a command, and to a mail. Who was slow to take one gets it twice if asked again.
_SMTP_TIMEOUT_S: Final = 15.0
_DATA_TIMEOUT_S: Final = 600.0
#: A server that vanished with its machine does not hang up; it is given up after these seconds and tries.
_KEEPALIVES: Final = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 11_000}
#: Between two looks, if nobody says that there is something.
_POLL_S: Final = 1.0
#: Doubled each time, with jitter: between tries of one mail, and between tries of a server that is away.
_MAIL_BACKOFF_S: Final = (1.0, 300.0)
_SERVER_BACKOFF_S: Final = (0.2, 10.0)
#: The longest pause of a mail, in times that it held a connection: it may have a 25th of one in the long run.
_PAUSE_PER_HELD: Final = 24.0
_AGAIN: Final = 400
_CLOSING: Final = 421
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


class _NoAnswer(Exception):
    """The server hung up, closes or is silent: it may have the mail. The connection is of no more use."""

    again: Final = True


class Mailer:
    """The agent."""

    def __init__(self, database: Database, settings: SmtpSettings, signals: Signals, clock: Clock, random: Random):
        self._database = database
        self._settings = settings
        self._signals = signals
        self._clock = clock
        self._random = random
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        #: Nothing is sent any more.
        self._over = asyncio.Event()
        self._trouble = ""
        #: One for each connection that sends, also those that `run_once` left behind: never more than `connections`.
        self._lanes: set[asyncio.Task[None]] = set()
        #: Mails that were sent, and claimed ones that are let go: not noted yet, because the database was away.
        self._sent: list[Record] = []
        self._let_go: list[Record] = []
        self._forgot_s = clock.monotonic_s()
        signals.mails_total.initialise(kind=KINDS, outcome=["sent", "failed", "suppressed"])
        signals.mails_waiting().set(0)
        signals.mail_oldest_seconds().set(0)

    def wake(self) -> None:
        """There may be mails to send."""
        self._wake.set()

    async def stop(self) -> None:
        """Has `run` begin no other mail, and waits for it, but not for long."""
        self._stopping.set()
        self.wake()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await self._over.wait()

    async def run(self) -> None:
        """Sends until it is stopped."""
        pause_s = _SERVER_BACKOFF_S[0]
        try:
            while not self._stopping.is_set():
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
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause_s * self._random.uniform(0.5, 1.0)):
                            await self._stopping.wait()
                    pause_s = min(2 * pause_s, _SERVER_BACKOFF_S[1])
        finally:
            lanes, self._lanes = self._lanes, set()
            for lane in lanes:
                lane.cancel()
            await asyncio.gather(*lanes, return_exceptions=True)
            self._over.set()

    async def run_once(self) -> int:
        """Claim mails and deal with each: how many. Raises `ServerAway`; what was not begun is free again then.

        A lane whose server takes long is left behind: it ends by itself, and the next call tells what it failed of.
        """
        if len(self._lanes) >= self._settings.connections:
            await asyncio.wait(self._lanes, timeout=_POLL_S, return_when=asyncio.FIRST_COMPLETED)
        self._reap()
        await self._catch_up()
        room = self._settings.connections - len(self._lanes)
        if not room:
            return 0
        until_s = self._clock.monotonic_s() + _BEGIN_S
        rows = await self._database.fetch(queries.claim, _BATCH_MAX, CLAIM_S)
        try:
            ready = [(row, mail) for row in rows if (mail := await self._ready(row)) is not None]
        except DatabaseFault:
            self._let_go += rows
            raise
        if ready:
            await self._shared_out(deque(ready), room, until_s)
        return len(rows)

    async def _shared_out(self, waiting: deque[tuple[Record, Mail]], room: int, until_s: float) -> None:
        """Returns when no mail waits in hand any more, and no lane sends or those that do take long."""
        lanes = {asyncio.create_task(self._send_all(waiting)) for _ in range(min(room, len(waiting)))}
        self._lanes |= lanes
        busy = lanes
        while waiting and busy and self._clock.monotonic_s() < until_s:
            _, busy = await asyncio.wait(busy, timeout=_SLOW_S, return_when=asyncio.FIRST_COMPLETED)
        left = [row for row, _ in waiting]
        waiting.clear()  # no lane begins another
        await asyncio.wait(lanes, timeout=_SLOW_S)
        await self._free(left)
        self._reap()

    def _reap(self) -> None:
        """Forget the lanes that have ended. Raises what one of them failed of."""
        ended = {lane for lane in self._lanes if lane.done()}
        self._lanes -= ended
        failures = [failure for lane in ended if (failure := lane.exception()) is not None]
        for failure in failures:
            raise failure

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

    async def _send_all(self, waiting: deque[tuple[Record, Mail]]) -> None:
        """One connection's share, and a new one if the server drops it. Raises `ServerAway` if it drops two running."""
        async with contextlib.AsyncExitStack() as stack:
            server: SMTP | None = None
            silence: _NoAnswer | None = None
            while waiting and not self._stopping.is_set():
                row, mail = waiting.popleft()
                async with self._kept(row):
                    if server is None or not server.is_connected:
                        try:
                            server = await self._connected(stack)
                        except ServerAway:
                            await self._free([row])
                            raise
                    before, silence = silence, await self._send(server, row, mail)
                    if before and silence:
                        raise ServerAway(str(silence)) from silence

    async def _connected(self, stack: contextlib.AsyncExitStack) -> SMTP:
        settings = self._settings
        server = _Server(
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
            _watch(server)
            if server.is_ehlo_or_helo_needed:
                try:
                    await server.ehlo()
                except SMTPHeloError:
                    await server.helo()
        except (SMTPException, OSError, TimeoutError, ValueError) as error:
            server.close()
            raise ServerAway(f"the mail server is away: {_said(error)}") from error
        stack.push_async_callback(_leave, server)
        return server

    async def _send(self, server: SMTP, row: Record, mail: Mail) -> _NoAnswer | None:
        """What was heard instead of an answer, if there was none."""
        links = [cause] if (cause := context.linked(row["trace"])) is not None else []
        began_s = self._clock.monotonic_s()
        with self._signals.span("mail", links=links, operation_id=row["operation"], kind=row["kind"]) as span:
            try:
                await _handed_over(server, mail)
            except (_Refused, _NoAnswer) as error:
                span.set(outcome="later" if error.again else "failed")
                if error.again:
                    held_s = self._clock.monotonic_s() - began_s
                    await self._later(row, str(error), self._pause_s(row["attempts"], held_s))
                else:
                    await self._end(row, "failed", str(error))
                return error if isinstance(error, _NoAnswer) else None
            span.set(outcome="sent")
            self._sent.append(row)
            await self._note_sent()
            return None

    @contextlib.asynccontextmanager
    async def _kept(self, row: Record) -> AsyncIterator[None]:
        """The mail stays ours for the block, however long that takes."""
        keeper = asyncio.create_task(self._keep(row))
        try:
            yield
        finally:
            keeper.cancel()

    async def _keep(self, row: Record) -> None:
        while True:
            await asyncio.sleep(_KEEP_PERIOD_S)
            with contextlib.suppress(DatabaseFault):
                await self._database.execute(queries.keep, row["id"], row["attempts"], CLAIM_S)

    async def _catch_up(self) -> None:
        """Note what could not be noted when it happened."""
        await self._note_sent()
        rows, self._let_go = self._let_go, []
        await self._free(rows)

    async def _note_sent(self) -> None:
        while self._sent:
            row = self._sent.pop()
            try:
                await self._end(row, "sent", None)
            except DatabaseFault:
                self._sent.append(row)
                raise

    async def _free(self, rows: list[Record]) -> None:
        if not rows:
            return
        try:
            await self._database.execute(queries.free, [row["id"] for row in rows], [row["attempts"] for row in rows])
        except DatabaseFault as fault:
            if fault.nothing_done:  # else they may be somebody else's by now
                self._let_go += rows
            raise

    async def _end(self, row: Record, state: Literal["sent", "failed", "suppressed"], reason: str | None) -> None:
        if await self._database.execute(queries.end, row["id"], state, reason) == "UPDATE 1":
            self._signals.mails_total(row["kind"], state).inc()
        if state == "failed":
            log.warning("a mail failed", operation=str(row["operation"]), kind=row["kind"], reason=reason)

    async def _later(self, row: Record, reason: str, pause_s: float) -> None:
        await self._database.execute(queries.later, row["id"], row["attempts"], pause_s, reason)

    def _pause_s(self, attempts: int, held_s: float) -> float:
        first_s, longest_s = max(_MAIL_BACKOFF_S[0], held_s), max(_MAIL_BACKOFF_S[1], _PAUSE_PER_HELD * held_s)
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
        now = utc(self._clock.now_ms())
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


class _Server(SMTP):
    """Is patient from DATA on, where it may have the mail."""

    async def data(
        self, message: str | bytes, /, *, timeout: float | Literal[Default.token] | None = Default.token
    ) -> SMTPResponse:
        return await super().data(message, timeout=_DATA_TIMEOUT_S)


async def _handed_over(server: SMTP, mail: Mail) -> None:
    """Returns when the server has accepted it. Raises `_Refused` for a no, `_NoAnswer` for no answer."""
    try:
        await server.sendmail(mail.sender, [mail.recipient], mail.content)
    except SMTPRecipientsRefused as error:
        [refused, *_] = error.recipients
        raise _no(server, refused) from error
    except SMTPResponseException as error:
        raise _no(server, error) from error
    except (aiosmtplib.SMTPNotSupported, ValueError) as error:  # an address that can't be sent safely
        raise _Refused(_NEVER, str(error)) from error
    except (SMTPException, OSError, TimeoutError) as error:
        server.close()
        raise _NoAnswer(storable(f"the mail server hung up or is silent: {_said(error)}")) from error


def _no(server: SMTP, error: SMTPResponseException) -> _Refused | _NoAnswer:
    if error.code != _CLOSING:
        return _Refused(error.code, error.message)
    server.close()
    return _NoAnswer(storable(f"the mail server is closing: {error.code} {error.message}"))


def _watch(server: SMTP) -> None:
    """Has the kernel ask whether the other side is still there while we wait; as far as this kernel can."""
    connection: socket.socket = server.get_transport_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVES.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


async def _leave(server: SMTP) -> None:
    with contextlib.suppress(SMTPException, OSError, TimeoutError):
        await server.quit(timeout=1.0)
    server.close()


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
