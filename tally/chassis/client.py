"""THE client for calls from one service to another: one HTTP POST, and what became of it as a value.

    outcome = await client.post("author", "/internal/attendance/record", body, kind="write", deadline=deadline)
    match outcome:
        case Reply(body):          the peer did what it answers
        case NotSent(reason):      the peer has not seen one byte of this: proof that it did nothing
        case Rejected(code=code):  the peer answered with a problem; what that proves depends on the code
        case Silent(reason):       anything may have happened, now or later

`NotSent` is proof that the protocol builds on, so it is claimed only where this request was never handed to a
connection: aiohttp gave up while resolving, connecting, or waiting for a free connection. All else without a
valid answer is `Silent`: a timeout, a reset, a body cut short, a reused connection that the peer was just closing, a
status without a problem (some proxy's), a redirect (never followed).

What travels along: the trace, the request id, what is left of the deadline, and a token for the peer where there is
a source of them. One attempt per call: retries, breakers and bulkheads wrap `_attempt` from outside.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeAlias

import aiohttp
import msgspec
import structlog
from aiohttp import ClientRequest, ClientResponse, ClientTimeout, hdrs
from yarl import URL

from tally.chassis import context, problems
from tally.chassis.auth import expires_s
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.signals import Signals, exemplar
from tally.resilience.deadline import HEADER as DEADLINE_HEADER
from tally.resilience.deadline import Deadline


@dataclass(frozen=True, slots=True)
class Reply:
    """The peer's answer, a status of 2xx."""

    body: bytes


@dataclass(frozen=True, slots=True)
class NotSent:
    """Not one byte left for the peer: `refused`, `dns`, `tls`, `no-connection` (in time), `token` or `deadline`; or
    what withheld it (`tally.chassis.calls`), and then for how long."""

    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Silent:
    """Sent, or perhaps sent, and no valid answer: `timeout`, `reset`, `cut-short`, `too-large`, `status-502`…"""

    reason: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """The peer's problem: its status and code, and how long it asks to wait."""

    status: int
    code: str
    retry_after_s: float | None = None
    detail: str = field(default="", compare=False)


Outcome: TypeAlias = Reply | NotSent | Silent | Rejected

_LABELS: Final[Mapping[type[Outcome], str]] = {
    Reply: "reply",
    NotSent: "not_sent",
    Silent: "silent",
    Rejected: "rejected",
}

# A connection that idles longer is closed by us, not used again. Less than the server's 75 s (`app.py`), so that
# a request seldom meets a connection that is just being closed.
_KEEP_ALIVE_S: Final = 60.0
# How long an address is trusted: a pod that moved is found again after this.
_DNS_S: Final = 5
# How long an answer that goes on may be silent: who sends one lets hear of itself more often.
_SILENCE_S: Final = 30.0
_SKIPPED_HEADERS: Final = ("User-Agent", "Accept", "Accept-Encoding")

_log = structlog.get_logger(__name__)


class Client:
    """Calls to the peers, by name. `async with` it, or `start` and `close`."""

    def __init__(
        self,
        peers: Mapping[str, str],
        signals: Signals,
        *,
        token_source: Callable[[str], str] | None = None,
        ca_file: str | None = None,
        connections_max: int = 32,
        connect_timeout_s: float = 1.0,
        timeout_s: float = 10.0,
        reply_max_bytes: int = 16 * 1024 * 1024,
        clock: Clock | None = None,
    ) -> None:
        """`peers` maps a name to the address it is at. `token_source` gives the token for a peer (its audience).
        `connections_max` is per peer; `timeout_s` holds for calls without a deadline."""
        self._peers = dict(peers)
        self._signals = signals
        self._token_source = token_source
        self._ca_file = ca_file
        self._connections_max = connections_max
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._reply_max_bytes = reply_max_bytes
        self._clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._url = functools.lru_cache(maxsize=1024)(self._built_url)

    async def start(self) -> None:
        connector = aiohttp.TCPConnector(
            limit=0,
            limit_per_host=self._connections_max,
            keepalive_timeout=_KEEP_ALIVE_S,
            ttl_dns_cache=_DNS_S,
            ssl=ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            request_class=_Request,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            skip_auto_headers=_SKIPPED_HEADERS,
        )
        if self._token_source is not None:
            for peer in self._peers:
                self._signals.token_expires_seconds(peer).set_function(functools.partial(self._token_left_s, peer))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline | None = None) -> Outcome:
        """Sends JSON to a peer. `kind` names the class of calls (`read`, `write`, `settle`) for metrics and policies.

        The deadline is that of the current request where none is given. KeyError if there is no such peer.
        """
        return await self._attempt(peer, path, body, kind, deadline or context.deadline())

    async def get(self, peer: str, path: str, *, kind: str, deadline: Deadline | None = None) -> Outcome:
        """The same for a question that has no body."""
        return await self._attempt(peer, path, None, kind, deadline or context.deadline())

    @contextlib.asynccontextmanager
    async def stream(
        self, peer: str, path: str, headers: Mapping[str, str], left_s: float
    ) -> AsyncIterator[ClientResponse]:
        """An answer that goes on for as long as it likes, to be read in the block; ``left_s`` is for its beginning.

        Raises aiohttp.ClientError, OSError, or what keeps the token from being made.
        """
        assert self._session is not None, "the client has been started"
        timeout = ClientTimeout(total=None, connect=min(self._connect_timeout_s, left_s), sock_read=_SILENCE_S)
        given = {**self._headers(peer, left_s), **headers}
        _mark.set(_Mark())
        async with self._session.get(
            self._url(peer, path), headers=given, allow_redirects=False, timeout=timeout
        ) as response:
            yield response

    async def _attempt(self, peer: str, path: str, body: bytes | None, kind: str, deadline: Deadline | None) -> Outcome:
        """One attempt, measured. What wraps it decides by its value; it raises nothing but being cancelled."""
        begun_s = self._clock.monotonic_s()
        left_s = self._timeout_s if deadline is None else deadline.left_s(begun_s)
        label = "cancelled"
        with self._signals.span("call", peer=peer, kind=kind) as span:
            here = context.current()
            try:
                outcome = await self._sent(peer, path, body, left_s) if left_s > 0.0 else NotSent("deadline")
                label = _LABELS[type(outcome)]
                span.set(outcome=label)
                return outcome
            finally:
                duration = self._signals.http_client_request_duration_seconds(peer, kind, label)
                duration.observe(self._clock.monotonic_s() - begun_s, exemplar(here))

    async def _sent(self, peer: str, path: str, body: bytes | None, left_s: float) -> Outcome:
        assert self._session is not None, "the client has been started"
        try:
            headers = self._headers(peer, left_s)
        except Exception as error:  # a key that cannot be read, a token file that is not there
            _log.warning("no token for a call", peer=peer, reason=str(error))
            return NotSent("token")
        mark = _Mark()
        _mark.set(mark)
        try:
            async with self._session.request(
                "GET" if body is None else "POST",
                self._url(peer, path),
                data=body,
                headers=headers,
                allow_redirects=False,
                timeout=ClientTimeout(
                    total=left_s, connect=min(self._connect_timeout_s, left_s), ceil_threshold=_NO_ROUNDING_S
                ),
            ) as response:
                return await self._read(response)
        except (aiohttp.ClientError, OSError) as error:
            return Silent(_why_silent(error)) if mark.sent else NotSent(_why_not_sent(error))

    async def _read(self, response: ClientResponse) -> Outcome:
        status = response.status
        body = await self._bounded(response)
        if body is None:
            return Silent("too-large")
        if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return Reply(body)
        if status < HTTPStatus.BAD_REQUEST or response.content_type != problems.CONTENT_TYPE:
            return Silent(f"status-{status}")
        try:
            seen = _decode_problem(body)
        except msgspec.MsgspecError:
            return Silent(f"status-{status}")
        return Rejected(status, seen.code, _seconds(response.headers.get(hdrs.RETRY_AFTER)), seen.detail)

    async def _bounded(self, response: ClientResponse) -> bytes | None:
        """The body; None where it is larger than we are ready to hold."""
        most, length = self._reply_max_bytes, response.content_length
        if length is not None:
            return None if length > most else await response.read()
        parts, size = [], 0
        async for part in response.content.iter_any():
            size += len(part)
            if size > most:
                return None
            parts.append(part)
        return b"".join(parts)

    def _headers(self, peer: str, left_s: float) -> dict[str, str]:
        here = context.current()
        headers = {} if here is None else here.outgoing()
        headers["Content-Type"] = "application/json"
        headers[DEADLINE_HEADER] = str(int(left_s * 1000))
        if self._token_source is not None:
            headers["Authorization"] = f"Bearer {self._token_source(peer)}"
        return headers

    def _token_left_s(self, peer: str) -> float:
        """Read when scraped, and so from the same source as a call's: a file that nobody rotates shows."""
        assert self._token_source is not None
        try:
            token = self._token_source(peer)
        except Exception:  # `_sent` tells of it when somebody calls
            return 0.0
        return max(0.0, expires_s(token) - self._clock.now_ms() / 1000)

    def _built_url(self, peer: str, path: str) -> URL:
        return URL(self._peers[peer].rstrip("/") + path, encoded=True)

    def __repr__(self) -> str:
        return f"<Client to {', '.join(self._peers)}{'' if self._session else ' not started'}>"


# aiohttp rounds timeouts above this up to whole seconds.
_NO_ROUNDING_S: Final = 3600.0


class _Mark:
    """Whether a request has been handed to a connection."""

    __slots__ = ("sent",)

    def __init__(self) -> None:
        self.sent = False


_mark: ContextVar[_Mark] = ContextVar("tally_client_mark")


class _Request(ClientRequest):
    """aiohttp's request, which says when it is handed to a connection. Before that, nothing of it was written."""

    async def send(self, conn: aiohttp.connector.Connection) -> ClientResponse:
        _mark.get().sent = True
        return await super().send(conn)


class _Problem(msgspec.Struct, frozen=True):
    """What of a peer's problem is acted upon, or passed on."""

    code: str
    detail: str = ""


_decode_problem: Final = msgspec.json.Decoder(_Problem).decode


def _why_not_sent(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorDNSError():
            return "dns"
        case aiohttp.ClientSSLError() | aiohttp.ClientConnectorCertificateError():
            return "tls"
        case TimeoutError():
            return "no-connection"
        case _:
            return "refused"


def _why_silent(error: Exception) -> str:
    match error:
        case TimeoutError():
            return "timeout"
        case aiohttp.ClientPayloadError():
            return "cut-short"
        case aiohttp.ClientResponseError():
            return "not-http"
        case _:
            return "reset"


def _seconds(text: str | None) -> float | None:
    """`Retry-After` in its form of seconds; the form of a date is not ours."""
    return float(text) if text is not None and text.isascii() and text.isdigit() else None
