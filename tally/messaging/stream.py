"""The stream: one JetStream stream that holds every event, and the connection that publishes to it.

    async with Stream.of(settings, "author", signals) as stream:
        sequence = await stream.publish(event)
        outcomes = await stream.publish_many(events)

Assumes nothing of the broker: entering does not wait for it. A task connects, connects again for ever, and sees to it
that the stream exists; until then, and whenever the broker is away, publishing raises `StreamUnavailable` at once.
What was sent and not acknowledged may have been stored nevertheless: whoever publishes again uses the same event, and
the broker drops what it has seen within its duplicate window; consumers drop the rest.

Nothing is buffered for a broker that is away (its callers keep what they want published), and what waits for an
acknowledgement is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
from collections.abc import Sequence
from hashlib import blake2b
from itertools import count
from typing import Annotated, Final, Self, TypeAlias

import msgspec
import structlog
from msgspec import Meta, Struct
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import StaleConnectionError
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, Header, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from tally.chassis.agents import end
from tally.chassis.auth import GuardedSettings
from tally.chassis.settings import READABLE_FILE
from tally.chassis.signals import Signals
from tally.messaging.event import PREFIX, Event, encode

#: The stream's name. There is one, so that its sequence orders all events.
STREAM: Final = "TALLY_EVENTS"
#: How long the broker remembers ids, to drop what is published twice. In seconds.
DUPLICATE_WINDOW_S: Final = 120.0
#: How large the stream may become.
MAX_BYTES: Final = 10 * 1024 * 1024 * 1024
#: What may wait for acknowledgements at once.
PENDING_MAX_BYTES: Final = 16 * 1024 * 1024
#: The broker's limit on a message counts its headers; ours are one id. (One that breaks the limit is not refused by
#: the broker: it hangs up.)
_HEADERS_MAX_BYTES: Final = 256
_CONNECT_TIMEOUT_S: Final = 2
_RECONNECT_S: Final = 0.5
#: A broker that hangs is noticed after two of these.
_PING_S: Final = 5
#: Between tries to create the stream: doubled each time, with jitter.
_BACKOFF_S: Final = (0.2, 5.0)
_CLOSE_S: Final = 1.0

_Ack: TypeAlias = "asyncio.Future[int | StreamUnavailable]"

log = structlog.get_logger()


class StreamSettings(GuardedSettings, frozen=True, kw_only=True):
    """Settings of a service that publishes or consumes events."""

    stream_url: Annotated[
        str, Meta(min_length=1, description="Where the broker (NATS) is; several servers are separated by commas.")
    ] = "nats://127.0.0.1:4222"
    stream_replicas: Annotated[
        int, Meta(ge=1, le=5, description="On how many servers of the broker's cluster the stream is kept.")
    ] = 1
    stream_max_bytes: Annotated[
        int, Meta(ge=1_048_576, description="How large the stream may become; full, it takes no more events.")
    ] = MAX_BYTES
    stream_credentials_file: Annotated[
        str | None, Meta(description="The broker's credentials file (JWT and key).", extra=READABLE_FILE)
    ] = None


class StreamUnavailable(Exception):
    """The broker did not acknowledge. It may have stored the event all the same."""


class NoStream(StreamUnavailable):
    """The broker is there, and has no such stream: somebody deleted it, or the broker lost it."""


class EventRefused(Exception):
    """The broker would never take this event: it is too large."""


class Bookmark(Struct, frozen=True):
    """A place in a stream, to be recognised."""

    stream: str
    """When it was made: one that is made anew, under the same name, is another one."""
    sequence: int
    """0 is before its first message."""
    message: bytes | None = None
    """The `fingerprint` of what is there; None if that is not known."""


def fingerprint(body: bytes) -> bytes:
    """Of a message."""
    return blake2b(body, digest_size=16).digest()


class _Refusal(Struct):
    code: int
    description: str = ""


class _Acknowledgement(Struct):
    """What JetStream answers to a publication."""

    seq: int = 0
    error: _Refusal | None = None


class _Acknowledgements:
    """What is on its way to one connection's broker, and its answers, by an inbox of the connection's own.

    (nats-py's `publish_async` does not pass on a broker's refusal: it leaves its caller to the timeout.)
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = client.new_inbox()
        self._numbers = count()
        self._waiting: dict[str, _Ack] = {}
        self._decoder = msgspec.json.Decoder(_Acknowledgement)

    async def listen(self) -> None:
        await self._client.subscribe(f"{self._inbox}.*", cb=self._answered)

    async def send(self, subject: str, body: bytes, headers: dict[str, str]) -> _Ack:
        """The future is the event's place in the stream, or why it has none."""
        reply = f"{self._inbox}.{next(self._numbers)}"
        await self._client.publish(subject, body, reply, headers)
        ack: _Ack = asyncio.get_running_loop().create_future()
        ack.add_done_callback(lambda _: self._waiting.pop(reply, None))
        self._waiting[reply] = ack
        return ack

    async def _answered(self, message: Msg) -> None:
        ack = self._waiting.get(message.subject)
        if ack is not None and not ack.done():
            ack.set_result(self._read(message))

    def _read(self, message: Msg) -> int | StreamUnavailable:
        if not message.data:
            return NoStream(f"nobody keeps a stream: {message.header}")
        try:
            answer = self._decoder.decode(message.data)
        except ValueError as error:
            return StreamUnavailable(f"the broker's answer makes no sense: {error}")
        return answer.seq if answer.error is None else StreamUnavailable(answer.error.description)


class Stream:
    """The connection to the stream. An asynchronous context manager; entering it never waits for the broker."""

    def __init__(
        self,
        url: str,
        name: str,
        signals: Signals,
        *,
        replicas: int = 1,
        max_bytes: int = MAX_BYTES,
        credentials_file: str | None = None,
        ca_file: str | None = None,
    ) -> None:
        """``name`` is what the broker's monitoring shows the connection as."""
        self._servers = [server.strip() for server in url.split(",")]
        self._name = name
        self._credentials_file = credentials_file
        self._tls = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self._config = StreamConfig(
            name=STREAM,
            subjects=[f"{PREFIX}.>"],
            storage=StorageType.FILE,
            retention=RetentionPolicy.LIMITS,
            discard=DiscardPolicy.NEW,
            duplicate_window=DUPLICATE_WINDOW_S,
            max_bytes=max_bytes,
            num_replicas=replicas,
        )
        self._client = Client()
        self._acks: _Acknowledgements | None = None
        #: Set while the broker can be reached and has the stream.
        self._context: JetStreamContext | None = None
        self._keeper: asyncio.Task[None] | None = None
        #: Something happened to the connection, or to the stream.
        self._changed = asyncio.Event()
        self._outstanding: set[_Ack] = set()
        self._pending_bytes = 0
        self._reason = "not connected yet"
        self._told = ""
        signals.stream_connected().set_function(lambda: float(self.connected))

    @classmethod
    def of(cls, settings: StreamSettings, service: str, signals: Signals) -> Stream:
        return cls(
            settings.stream_url,
            f"tally-{service}",
            signals,
            replicas=settings.stream_replicas,
            max_bytes=settings.stream_max_bytes,
            credentials_file=settings.stream_credentials_file,
            ca_file=settings.tls_ca_file,
        )

    async def __aenter__(self) -> Self:
        self._keeper = asyncio.create_task(self._keep(), name="stream")
        return self

    async def __aexit__(self, *exit: object) -> None:
        """Gives what was sent a moment to be acknowledged, and hangs up."""
        if self._outstanding:
            await asyncio.wait(self._outstanding, timeout=_CLOSE_S)
        self._told = "closed"
        if self._keeper is not None:
            await end(self._keeper)
        await self._hang_up(self._client)

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached, and has the stream."""
        return self._context is not None and self._client.is_connected

    async def publish(self, event: Event, *, subject: str | None = None, timeout_s: float = 5.0) -> int:
        """The event's place in the stream, once it is stored there. ``subject``: where, if not at the event's own.

        Raises `StreamUnavailable`, or `EventRefused`.
        """
        (outcome,) = await self._publish([(subject or event.stream_subject, event)], timeout_s)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    async def publish_many(self, events: Sequence[Event], *, timeout_s: float = 5.0) -> list[BaseException | None]:
        """Publishes without waiting for one acknowledgement before sending the next: per event, None or what
        `publish` would have raised. The broker stores them in the order given."""
        outcomes = await self._publish([(event.stream_subject, event) for event in events], timeout_s)
        return [outcome if isinstance(outcome, BaseException) else None for outcome in outcomes]

    async def jetstream(self) -> JetStreamContext:
        """nats-py's own interface, on a connection that is up. It belongs to that connection: ask again after an
        error. Raises `StreamUnavailable`."""
        if self._context is None or not self._client.is_connected:
            raise StreamUnavailable(self._reason)
        return self._context

    async def last_sequence(self) -> int:
        """Of the newest event in the stream; 0 if there is none. Raises `StreamUnavailable`."""
        return (await self._state()).sequence

    async def end(self) -> Bookmark:
        """Its end. Raises `StreamUnavailable`."""
        now = await self._state()
        return msgspec.structs.replace(now, message=await self._message_at(now.sequence))

    async def holds(self, bookmark: Bookmark) -> bool:
        """Whether it is the stream in which ``bookmark`` was seen, and has not gone back behind it since: after a loss
        of its disk, or as an older copy, it fills its places a second time. (What somebody deleted from it says
        nothing.) Raises `StreamUnavailable`."""
        now = await self._state()
        if now.stream != bookmark.stream or now.sequence < bookmark.sequence:
            return False
        message = await self._message_at(bookmark.sequence) if bookmark.message else None
        return None in (message, bookmark.message) or message == bookmark.message

    async def _state(self) -> Bookmark:
        context = await self.jetstream()
        try:
            told = await context.stream_info(STREAM)
        except NotFoundError as error:
            self._make_sure_again()
            raise NoStream(_said(error)) from error
        except (NatsError, OSError) as error:
            raise StreamUnavailable(_said(error)) from error
        return Bookmark(str(told.created), told.state.last_seq)

    async def _message_at(self, sequence: int) -> bytes | None:
        if not sequence:
            return None
        context = await self.jetstream()
        try:
            return fingerprint((await context.get_msg(STREAM, sequence)).data or b"")
        except NotFoundError:
            return None
        except (NatsError, OSError) as error:
            raise StreamUnavailable(_said(error)) from error

    # --- publishing

    async def _publish(
        self, messages: Sequence[tuple[str, Event]], timeout_s: float
    ) -> list[int | StreamUnavailable | EventRefused]:
        acks: list[_Ack | StreamUnavailable | EventRefused] = []
        try:
            for subject, event in messages:
                acks.append(await self._send(subject, event))
            if waiting := [ack for ack in acks if isinstance(ack, asyncio.Future)]:
                await asyncio.wait(waiting, timeout=timeout_s)
            return [self._outcome(ack) if isinstance(ack, asyncio.Future) else ack for ack in acks]
        finally:
            for ack in acks:
                if isinstance(ack, asyncio.Future):
                    ack.cancel()

    async def _send(self, subject: str, event: Event) -> _Ack | StreamUnavailable | EventRefused:
        if self._acks is None or not self.connected:
            return StreamUnavailable(self._reason)
        body = encode(event)
        size = len(body) + _HEADERS_MAX_BYTES
        if size > self._client.max_payload:
            return EventRefused(f"{len(body)} bytes are too many for the broker: it takes {self._client.max_payload}")
        if self._pending_bytes + size > PENDING_MAX_BYTES:
            return StreamUnavailable("too much waits for an acknowledgement of the broker")
        try:
            ack = await self._acks.send(subject, body, {Header.MSG_ID: str(event.id)})
        except (NatsError, OSError) as error:
            return StreamUnavailable(_said(error))
        self._expect(ack, size)
        return ack

    def _expect(self, ack: _Ack, size: int) -> None:
        def settled(ack: _Ack) -> None:
            self._outstanding.discard(ack)
            self._pending_bytes -= size

        self._outstanding.add(ack)
        self._pending_bytes += size
        ack.add_done_callback(settled)

    def _outcome(self, ack: _Ack) -> int | StreamUnavailable:
        if not ack.done():
            return StreamUnavailable("the broker did not acknowledge in time")
        if ack.cancelled():
            return StreamUnavailable("the connection broke before the broker acknowledged")
        outcome = ack.result()
        if isinstance(outcome, NoStream):
            self._make_sure_again()
        return outcome

    def _make_sure_again(self) -> None:
        self._context = None
        self._changed.set()

    # --- the connection

    async def _keep(self) -> None:
        """Keeps a connection, and the stream, for ever. What ends a connection for good (the broker throws us out)
        is followed by another one."""
        while True:
            self._client = client = Client()
            try:
                await self._connect(client)
                self._acks = _Acknowledgements(client)
                await self._acks.listen()
                await self._serve(client)
            except Exception as error:
                self._lost(_said(error))
            await self._hang_up(client)
            await asyncio.sleep(_RECONNECT_S * random.uniform(1, 2))

    async def _connect(self, client: Client) -> None:
        async def failed(error: Exception) -> None:
            # With the connection up, it is about something else: a consumer that is too slow, for example.
            if client.is_connected and not isinstance(error, StaleConnectionError):
                log.warning("trouble with the stream", broker=self._broker, reason=_said(error))
            else:
                self._lost(_said(error))

        async def disconnected() -> None:
            self._lost("the connection to the broker broke")

        async def changed() -> None:
            self._changed.set()

        await client.connect(
            self._servers,
            name=self._name,
            error_cb=failed,
            disconnected_cb=disconnected,
            reconnected_cb=changed,
            closed_cb=changed,
            connect_timeout=_CONNECT_TIMEOUT_S,
            reconnect_time_wait=_RECONNECT_S * random.uniform(1, 2),  # type: ignore[arg-type]  # seconds, any fraction
            max_reconnect_attempts=-1,
            ping_interval=_PING_S,
            tls=self._tls,
            user_credentials=self._credentials_file,
            # Nothing is kept for a broker that is away. (And with a limit, nats-py waits where it swallows a cancel.)
            pending_size=0,
        )

    async def _serve(self, client: Client) -> None:
        """Until the connection ends for good: each time that it is up again, the stream is made sure of."""
        pause_s = _BACKOFF_S[0]
        while not client.is_closed:
            self._changed.clear()
            if client.is_connected and self._context is None:
                try:
                    await self._ensure(client)
                    pause_s = _BACKOFF_S[0]
                except (NatsError, OSError) as error:
                    self._lost(f"no stream: {_said(error)}")
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(pause_s * 2, _BACKOFF_S[1])
                    continue
            await self._changed.wait()

    async def _ensure(self, client: Client) -> None:
        """Creates the stream, or brings it to what the settings say. An operator's other changes to it stay."""
        context = client.jetstream()
        try:
            config = (await context.stream_info(STREAM)).config
        except NotFoundError:
            await context.add_stream(self._config)
        else:
            wanted = {
                name: getattr(self._config, name)
                for name in ("subjects", "max_bytes", "num_replicas", "discard", "duplicate_window")
                if getattr(self._config, name) != getattr(config, name)
            }
            if wanted:
                await self._update(context, config.evolve(**wanted), wanted)
        self._context = context
        self._told = ""
        log.info("stream reachable", stream=STREAM, broker=self._broker)

    async def _update(self, context: JetStreamContext, config: StreamConfig, wanted: dict[str, object]) -> None:
        """A stream that is not quite as it should be is better than none."""
        try:
            await context.update_stream(config)
        except NatsError as error:
            log.warning("the stream stays as it is", stream=STREAM, wanted=wanted, reason=_said(error))

    def _lost(self, reason: str) -> None:
        """Whoever waits for an acknowledgement learns that none will come; it is logged once."""
        self._context = None
        self._reason = reason
        for ack in list(self._outstanding):
            ack.cancel()
        self._changed.set()
        if not self._told:
            log.warning("stream unreachable", broker=self._broker, reason=reason)
        self._told = reason

    async def _hang_up(self, client: Client) -> None:
        self._context = None
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_CLOSE_S):
                await client.close()

    @property
    def _broker(self) -> str:
        """Where it is, without what may be secret in an address."""
        return ",".join(server.rpartition("@")[2].removeprefix("nats://") for server in self._servers)

    def __repr__(self) -> str:
        return f"<Stream {STREAM} {'connected' if self.connected else f'unreachable: {self._reason}'}>"


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
