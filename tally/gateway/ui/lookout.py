"""Asks who is there, for the page: each service a question that costs next to nothing, and those who know more, that.

Assumes that somebody looks: nothing here runs by itself. A participant is asked outside the gateway's policies: looking
must neither open a breaker nor close one. Others are asked for a path that they do not have: that they answer at all is
what counts.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

import aiohttp
import msgspec
from msgspec import Struct

from tally.chassis.client import Client, NotSent, Outcome, Rejected, Reply, Silent
from tally.chassis.clock import Clock
from tally.protocol import messages as wire
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

#: How long a question may take.
WITHIN_S: Final = 0.9
#: How long a request of the walkthrough may take.
_VISIT_S: Final = 10.0
_ANSWER_MAX_BYTES: Final = 256 * 1024
#: When nobody looked for longer than this, what was seen before says nothing of now.
PAUSE_S: Final = 5.0
_NOBODY_AT: Final = "livez"

T = TypeVar("T")


class Seen(Struct, frozen=True, omit_defaults=True):
    """A service, as it looks from here. ``since_ms``: since when it is in this state, if that was seen."""

    name: str
    state: Literal["up", "down", "silent", "unwell"]
    detail: str = ""
    took_ms: float | None = None
    since_ms: int | None = None


class Answered(Struct, frozen=True):
    """An answer to a request that was made for somebody, as it came."""

    status: int
    reason: str
    headers: dict[str, str]
    text: str


class Unreached(Exception):
    """Nobody answered; the message says why, as a person says it."""


@dataclass
class Remembered(Generic[T]):
    """What was answered last, asked for again when it is old."""

    ask: Callable[[], Awaitable[T]]
    period_s: float
    _value: T | None = None
    _until_s: float = field(default=-1.0)

    async def get(self, now_s: float) -> T:
        if self._value is None or now_s >= self._until_s:
            self._value = await self.ask()
            self._until_s = now_s + self.period_s
        return self._value


class Visitor:
    """Plain HTTP to other services' public ports, without a token: nobody gets more by us than by himself."""

    def __init__(self, ca_file: str | None = None) -> None:
        self._ca_file = ca_file
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        context = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit_per_host=8, ssl=context),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, method: str, url: str, body: bytes | None = None, *, within_s: float = _VISIT_S) -> Answered:
        """One request. Raises `Unreached`."""
        assert self._session is not None, "it is entered"
        headers = {"Accept": "application/json", **({} if body is None else {"Content-Type": "application/json"})}
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.request(
                method, url, data=body, headers=headers, timeout=timeout, allow_redirects=False
            ) as answer:
                content = await _bounded(answer)
                shown = {name.lower(): value for name, value in answer.headers.items()}
                return Answered(answer.status, answer.reason or "", shown, content.decode(errors="replace"))
        except TimeoutError as error:
            raise Unreached("it did not answer in time") from error
        except (aiohttp.ClientError, OSError) as error:
            refused = isinstance(error, aiohttp.ClientConnectorError)
            raise Unreached("it refuses connections" if refused else "it cut the connection") from error


async def _bounded(answer: aiohttp.ClientResponse) -> bytes:
    """The body, up to what we are ready to hold."""
    content = b""
    async for part in answer.content.iter_any():
        content += part
        if len(content) > _ANSWER_MAX_BYTES:
            break
    return content[:_ANSWER_MAX_BYTES]


class Lookout:
    """The participants of a relationship, and ``others`` by their names and addresses."""

    def __init__(
        self, relationship: Relationship, client: Client, visitor: Visitor, others: Mapping[str, str], clock: Clock
    ) -> None:
        self._ends = [relationship.end(side).service for side in Side]
        self._question = f"/internal/{relationship.name}/status"
        self._client = client
        self._visitor = visitor
        self._others = dict(others)
        self._clock = clock
        self._states: dict[str, tuple[str, int | None]] = {}
        self._closed: dict[str, int] = {}
        self._looked_s = float("-inf")

    async def look(self) -> list[Seen]:
        """Everybody at once, within a second."""
        if self._clock.monotonic_s() - self._looked_s > PAUSE_S:
            self._forget()
        asked = [*map(self._participant, self._ends), *(self._other(*one) for one in self._others.items())]
        seen = [self._since(one) for one in await asyncio.gather(*asked)]
        self._looked_s = self._clock.monotonic_s()
        return seen

    def _forget(self) -> None:
        self._states.clear()
        self._closed.clear()

    @property
    def closed_ms(self) -> int | None:
        """The latest epoch that both sides have said to have closed, since somebody looks; None until both have."""
        return min(self._closed.values()) if len(self._closed) == len(self._ends) else None

    async def _participant(self, name: str) -> Seen:
        begun_s = self._clock.monotonic_s()
        deadline = Deadline.after(WITHIN_S, begun_s)
        outcome = await self._client.post(name, self._question, _NOTHING, kind="look", deadline=deadline)
        if isinstance(outcome, Reply):
            self._closed[name] = _decode(outcome.body).closed
        return _seen(name, outcome, (self._clock.monotonic_s() - begun_s) * 1000)

    async def _other(self, name: str, url: str) -> Seen:
        begun_s = self._clock.monotonic_s()
        try:
            await self._visitor.ask("GET", f"{url.rstrip('/')}/{_NOBODY_AT}", within_s=WITHIN_S)
        except Unreached as error:
            return Seen(name, "silent" if isinstance(error.__cause__, TimeoutError) else "down", str(error))
        return Seen(name, "up", took_ms=(self._clock.monotonic_s() - begun_s) * 1000)

    def _since(self, seen: Seen) -> Seen:
        """A state that was there when we first looked began nobody knows when."""
        known = self._states.get(seen.name)
        if known is None or known[0] != seen.state:
            self._states[seen.name] = known = (seen.state, None if known is None else self._clock.now_ms())
        return msgspec.structs.replace(seen, since_ms=known[1])


_NOTHING: Final = msgspec.json.encode(wire.Ops([]))
_decode: Final = msgspec.json.Decoder(wire.Statuses).decode


def _seen(name: str, outcome: Outcome, took_ms: float) -> Seen:
    match outcome:
        case Reply():
            return Seen(name, "up", took_ms=took_ms)
        case NotSent("refused"):
            return Seen(name, "down", "it refuses connections")
        case NotSent(reason):
            return Seen(name, "down", f"it can't be reached: {reason}")
        case Silent("timeout"):
            return Seen(name, "silent", "it did not answer in time")
        case Silent(reason):
            return Seen(name, "unwell", f"no valid answer: {reason}")
        case Rejected(_, code):
            return Seen(name, "unwell", f"it answers {code}")


def items_of(answer: Answered) -> list[dict[str, Any]] | None:
    """The items of a list's answer; None if it is none."""
    try:
        body = msgspec.json.decode(answer.text)
        return [dict(item) for item in body["items"]]
    except (KeyError, TypeError, ValueError):
        return None
