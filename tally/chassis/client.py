"""THE client for calls from one service to another: one HTTP POST or GET, and what became of it as a value.

    outcome = await client.post("author", "/internal/attendance/record", body, kind="write", deadline=deadline)
    match outcome:
        case Reply(body):          the peer did what it answers
        case NotSent(reason):      the peer has not seen one byte of this: proof that it did nothing
        case Rejected(code=code):  the peer answered with a problem; what that proves depends on the code
        case Silent(reason):       anything may have happened, now or later

`NotSent` is proof that the protocol builds on, so it is claimed only where this request was never handed to a
connection (`exchange.py`): it was given up while resolving, connecting, or waiting for a free connection. All else
without a valid answer is `Silent`: a timeout, a reset, a body cut short, a reused connection that the peer was just
closing, a status without a problem (some proxy's), a redirect (never followed).

What travels along: the trace, the request id, what is left of the deadline, and a token for the peer where there is
a source of them. One attempt per call: retries, breakers and bulkheads wrap `post` and `get` from outside (`calls.py`).
`stream` is a GET whose answer goes on for as long as it is listened to.
"""

from __future__ import annotations

import contextlib
import functools
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from types import TracebackType
from typing import Final, Self, TypeAlias
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from aiohttp import ClientResponse, ClientTimeout

from tally.chassis import context, problems
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.exchange import Answer, Broken, Connections, NotConnected
from tally.chassis.metrics import exemplar
from tally.chassis.signals import Signals
from tally.chassis.tokens import expires_s
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
    """The peer's problem: its status and code, and how long it asks to wait (a minute at most)."""

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

# How long an answer that goes on may be silent: who sends one lets hear of itself more often.
_SILENCE_S: Final = 30.0
# A peer that asks for more than this is no longer believed: it may be back at any time.
_RETRY_AFTER_MAX_S: Final = 60.0
_PORTS: Final = {"http": 80, "https": 443}

_log = structlog.get_logger()


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
        reply_max_bytes: int = 16 * 1024 * 1024,
        clock: Clock | None = None,
    ) -> None:
        """`peers` maps a name to the address it is at. `token_source` gives the token for a peer (its audience).
        `connections_max` is per peer."""
        self._peers = dict(peers)
        self._signals = signals
        self._token_source = token_source
        self._ca_file = ca_file
        self._connections_max = connections_max
        self._connect_timeout_s = connect_timeout_s
        self._reply_max_bytes = reply_max_bytes
        self._clock = clock or SystemClock()
        self._session: aiohttp.ClientSession | None = None
        self._connections: dict[str, Connections] = {}
        # Of each peer: the path that its address has, and its Host header.
        self._places: dict[str, tuple[str, bytes]] = {}

    async def start(self) -> None:
        secure = any(urlsplit(url).scheme == "https" for url in self._peers.values())
        # (Reading the machine's authorities takes a while; who calls nobody by TLS need not.)
        tls = ssl.create_default_context(cafile=self._ca_file) if secure else None
        for peer, url in self._peers.items():
            parts = urlsplit(url)
            host = b"Host: %s\r\n" % parts.netloc.rpartition("@")[2].encode("idna")
            self._places[peer] = (parts.path.rstrip("/"), host)
            self._connections[peer] = Connections(
                parts.hostname or "",
                parts.port or _PORTS[parts.scheme],
                tls=tls if parts.scheme == "https" else None,
                most=self._connections_max,
                body_max_bytes=self._reply_max_bytes,
            )
        # For answers that go on: the rest of HTTP.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, limit_per_host=self._connections_max, ssl=tls or True),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        if self._token_source is not None:
            for peer in self._peers:
                self._signals.token_expires_seconds(peer).set_function(functools.partial(self._token_left_s, peer))

    async def close(self) -> None:
        for connections in self._connections.values():
            connections.close()
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        """Sends JSON to a peer. `kind` names the class of calls (`read`, `write`, `settle`) for metrics and policies.

        KeyError if there is no such peer.
        """
        return await self._attempt(peer, path, body, kind, deadline)

    async def get(self, peer: str, path: str, *, kind: str, deadline: Deadline) -> Outcome:
        """The same for a question that has no body."""
        return await self._attempt(peer, path, None, kind, deadline)

    @contextlib.asynccontextmanager
    async def stream(
        self, peer: str, path: str, headers: Mapping[str, str], deadline: Deadline
    ) -> AsyncIterator[ClientResponse]:
        """An answer that goes on for as long as it likes, to be read in the block; the deadline is its beginning's.

        Raises aiohttp.ClientError, OSError, or what keeps the token from being made.
        """
        assert self._session is not None, "the client has been started"
        connect_s = min(self._connect_timeout_s, deadline.left_s(self._clock.monotonic_s()))
        timeout = ClientTimeout(total=None, connect=connect_s, sock_read=_SILENCE_S)
        given = {**self._headers(peer, deadline), **headers}
        async with self._session.get(
            self._peers[peer].rstrip("/") + path, headers=given, allow_redirects=False, timeout=timeout
        ) as response:
            yield response

    async def _attempt(self, peer: str, path: str, body: bytes | None, kind: str, deadline: Deadline) -> Outcome:
        """One attempt, measured. What wraps it decides by its value; it raises nothing but being cancelled."""
        begun_s = self._clock.monotonic_s()
        label = "cancelled"
        with self._signals.span("call", peer=peer, kind=kind) as span:
            here = context.current()
            try:
                late = deadline.expired(begun_s)
                outcome = NotSent("deadline") if late else await self._sent(peer, path, body, deadline)
                label = _LABELS[type(outcome)]
                span.set(outcome=label)
                return outcome
            finally:
                duration = self._signals.http_client_request_duration_seconds(peer, kind, label)
                duration.observe(self._clock.monotonic_s() - begun_s, exemplar(here))

    async def _sent(self, peer: str, path: str, body: bytes | None, deadline: Deadline) -> Outcome:
        connections = self._connections[peer]
        try:
            request = self._request(peer, path, body, deadline)
        except Exception as error:  # a key that cannot be read, a token file that is not there
            _log.warning("no token for a call", peer=peer, reason=str(error))
            return NotSent("token")
        try:
            left_s = deadline.left_s(self._clock.monotonic_s())
            connection = await connections.acquire(min(self._connect_timeout_s, left_s))
        except NotConnected as error:
            return NotSent(error.reason)
        try:
            left_s = deadline.left_s(self._clock.monotonic_s())
            return _outcome(await connections.exchange(connection, request, left_s))
        except Broken as error:
            return Silent(error.reason)

    def _request(self, peer: str, path: str, body: bytes | None, deadline: Deadline) -> bytes:
        """The whole request. ValueError where a header would smuggle another one."""
        headers = self._headers(peer, deadline)
        if body is not None:
            headers["Content-Length"] = str(len(body))
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        head = "".join(lines).encode("latin-1")
        prefix, host = self._places[peer]
        line = f"{'GET' if body is None else 'POST'} {prefix}{path} HTTP/1.1\r\n".encode()
        if head.count(b"\n") != len(lines) or line.count(b"\n") != 1 or line.count(b" ") != _SPACES:
            raise ValueError("a line break or a blank where none may be")
        return b"".join((line, host, head, b"\r\n", body or b""))

    def _headers(self, peer: str, deadline: Deadline) -> dict[str, str]:
        here = context.current()
        headers = {} if here is None else here.outgoing()
        headers["Content-Type"] = "application/json"
        headers[DEADLINE_HEADER] = deadline.header(self._clock.monotonic_s())
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

    def __repr__(self) -> str:
        return f"<Client to {', '.join(self._peers)}{'' if self._session else ' not started'}>"


class _Problem(msgspec.Struct, frozen=True):
    """What of a peer's problem is acted upon, or passed on."""

    code: str
    detail: str = ""


_decode_problem: Final = msgspec.json.Decoder(_Problem).decode


# In "POST /path HTTP/1.1".
_SPACES: Final = 2


def _outcome(answer: Answer) -> Outcome:
    status = answer.status
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
        return Reply(answer.body)
    if status < HTTPStatus.BAD_REQUEST or answer.content_type != problems.CONTENT_TYPE:
        return Silent(f"status-{status}")
    try:
        seen = _decode_problem(answer.body)
    except ValueError:
        return Silent(f"status-{status}")
    return Rejected(status, seen.code, _seconds(answer.retry_after), seen.detail)


def _seconds(text: str | None) -> float | None:
    """`Retry-After` in its form of seconds; the form of a date is not ours."""
    if text is None or not text.isascii() or not text.isdigit():
        return None
    return min(float(text), _RETRY_AFTER_MAX_S)  # (float takes any number of digits, for infinity if need be)
