"""The relay: publishes what is in the outbox, and marks what the stream acknowledged.

Claim, publish, mark, in one transaction: whoever dies in the middle leaves the rows as they were, and they are
published again, with the same ids. So each event is in the stream at least once, and once is the rule. Any number of
relays may run at once; each claims what no other has (SKIP LOCKED).

The events of one subject are published in the order they were written: each waits for the acknowledgement of the one
before it. What the broker refuses (too large) stays, counted and logged, and holds back its subject's later events,
nobody else's. A broker that is away holds back all of them; nothing waits for it but the outbox.

A stream that is another one than before, or an older copy of itself, lacks what was in it, and nobody else knows what
that was: all that the outbox still has is published again. Those who have applied it already apply nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from typing import Annotated, Any, Final, Literal
from uuid import UUID

import asyncpg
import structlog
from msgspec import Meta

from tally.chassis import context
from tally.chassis.agents import end
from tally.chassis.clock import Clock
from tally.chassis.database import KEEPALIVES
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.signals import Signals
from tally.messaging.event import Event
from tally.messaging.outbox import CHANNEL, EVER, Outbox, Waiting
from tally.messaging.stored import StoredSettings
from tally.messaging.stream import EventRefused, Stream, StreamUnavailable

#: How long the broker may take to acknowledge a batch.
_PUBLISH_S: Final = 5.0
#: After a wave that was not acknowledged nothing more is sent, so a batch waits for the broker once.
_PATIENCE_S: Final = 3 * _PUBLISH_S
#: Between looks at the outbox when nothing wakes us.
_POLL_S: Final = 1.0
_BACKOFF_S: Final = (0.1, 2.0)
#: Until a refused event is tried again.
_HOLD_S: Final = 60.0
_TIDY_S: Final = 60.0
#: Between looks at which stream it is.
_LOOK_S: Final = 5.0
_CONNECT_S: Final = 2.0
#: How often who listens looks whether it is heard: a database that vanished with its machine does not hang up.
_ASSURED_S: Final = 5.0

log = structlog.get_logger()


class RelaySettings(StoredSettings, frozen=True, kw_only=True):
    """Settings of a service that has an outbox."""

    relay: Annotated[
        Literal["outbox", "wal"],
        Meta(description="How events leave the database: read from the outbox table, or from the database's log."),
    ] = "outbox"
    relay_batch_max: Annotated[
        int, Meta(ge=1, le=4096, description="How many events are published between two marks.")
    ] = 256
    outbox_keep_days: Annotated[
        float, Meta(gt=0, le=3650, description="Days that published events are kept, to be published again.")
    ] = 7.0


class Relay:
    """Publishes one outbox."""

    def __init__(
        self,
        outbox: Outbox,
        stream: Stream,
        database_url: str,
        signals: Signals,
        clock: Clock,
        *,
        batch_max: int = 256,
        keep_days: float = 7.0,
    ) -> None:
        """`database_url` is for the connection that listens, which can't be one of the pool's."""
        self._outbox = outbox
        self._stream = stream
        self._url = database_url
        self._signals = signals
        self._clock = clock
        self._batch_max = batch_max
        self._keep = timedelta(days=keep_days)
        self._woken = asyncio.Event()
        #: Subjects with an event that the broker refused, and until when they are left alone.
        self._held: dict[UUID, float] = {}
        self._waiting = Waiting(0, None)
        self._measured_s = self._tidied_s = self._looked_s = float("-inf")
        self._trouble = ""
        self._published = signals.published_total()
        self._failures = signals.publish_failures_total()
        signals.outbox_rows().set_function(lambda: self._waiting.rows)
        signals.outbox_oldest_seconds().set_function(self._oldest_s)

    # --- the agent

    async def run(self) -> None:
        """Publish for ever: at once what is told of, and everything else within a second. Trouble is logged when it
        begins and when it is over."""
        listening = asyncio.create_task(self._listen(), name="outbox listener")
        pause_s = _BACKOFF_S[0]
        try:
            while True:
                try:
                    self._woken.clear()
                    done = await self.run_once()
                    await self._housekeeping()
                    self._now("")
                    pause_s = _BACKOFF_S[0]
                    if done < self._batch_max:
                        await self._sleep(_POLL_S)
                    continue
                except (StreamUnavailable, DatabaseFault) as error:
                    self._now(str(error))
                except Exception as error:
                    self._now(f"{type(error).__name__}: {error}", exc_info=True)
                await self._measure_quietly()
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, _BACKOFF_S[1])
        finally:
            await end(listening)

    async def run_once(self) -> int:
        """Publish one batch: how many events were acknowledged. Raises `StreamUnavailable` if some were not; what was
        acknowledged is marked all the same."""
        return await self._publish_waiting()

    async def _publish_waiting(self, age: timedelta = timedelta(0)) -> int:
        """A batch of what is not marked and at least `age` old."""
        await self._stream.jetstream()  # else nothing need be claimed
        async with self._outbox.transaction() as tx:
            events = await self._outbox.claim(tx, self._batch_max, self._left_alone(), patience_s=_PATIENCE_S, age=age)
            acknowledged, trouble = await self._publish(events)
            await self._outbox.mark(acknowledged, tx)
        self._published.inc(len(acknowledged))
        if trouble is not None:
            raise trouble
        return len(acknowledged)

    # --- publishing

    async def _publish(self, events: Sequence[Event]) -> tuple[list[UUID], StreamUnavailable | None]:
        """The ids of those that were acknowledged, and what kept the broker from taking all of them."""
        acknowledged: list[UUID] = []
        for wave in waves(events, self._batch_max):
            wave = [event for event in wave if event.subject not in self._held]
            with self._spans(wave):
                outcomes = await self._stream.publish_many(wave, timeout_s=_PUBLISH_S)
            trouble: StreamUnavailable | None = None
            for event, outcome in zip(wave, outcomes, strict=True):
                match outcome:
                    case None:
                        acknowledged.append(event.id)
                    case EventRefused():
                        self._hold(event, outcome)
                    case StreamUnavailable():
                        self._failures.inc()
                        trouble = outcome
                    case _:
                        raise outcome
            if trouble is not None:
                return acknowledged, trouble
        return acknowledged, None

    @contextlib.contextmanager
    def _spans(self, events: Sequence[Event]) -> Iterator[None]:
        """A span per event, linked to what wrote it."""
        with ExitStack() as stack:
            if self._signals.traced:
                for event in events:
                    links = [link] if (link := context.linked(event.traceparent)) else []
                    said: dict[str, Any] = {"event": event.id, "type": event.type, "subject": event.subject}
                    stack.enter_context(self._signals.span("relay", links=links, **said))
            yield

    def _hold(self, event: Event, refusal: EventRefused) -> None:
        self._failures.inc()
        self._held[event.subject] = self._clock.monotonic_s() + _HOLD_S
        log.error(
            "event refused; it holds back the later ones of its subject",
            event_id=str(event.id),
            type=event.type,
            subject=str(event.subject),
            reason=str(refusal),
        )

    def _left_alone(self) -> list[UUID]:
        now_s = self._clock.monotonic_s()
        self._held = {subject: until_s for subject, until_s in self._held.items() if until_s > now_s}
        return list(self._held)

    # --- waking up

    async def _sleep(self, most_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(most_s):
                await self._woken.wait()

    async def _listen(self) -> None:
        """Keeps a connection that hears of new rows. Without one, there is the poll."""
        pause_s = _BACKOFF_S[0]
        while True:
            try:
                await self._listen_once()
                pause_s = _BACKOFF_S[0]
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                pause_s = min(pause_s * 2, _BACKOFF_S[1])
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))

    async def _listen_once(self) -> None:
        """Until the connection breaks."""
        settings = {"application_name": "tally-outbox-listener", **KEEPALIVES}
        connection = await asyncpg.connect(
            self._url, timeout=_CONNECT_S, command_timeout=_CONNECT_S, server_settings=settings
        )
        broken = asyncio.Event()
        connection.add_termination_listener(lambda _: broken.set())
        try:
            await connection.add_listener(CHANNEL, lambda *_: self._woken.set())
            self._woken.set()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_ASSURED_S):
                        await broken.wait()
                    return
                await connection.execute("SELECT 1")
        finally:
            connection.terminate()

    # --- the stream itself

    async def look(self) -> None:
        """Is it the stream that was published to, with all that was in it? Else have that published again. Raises
        `StreamUnavailable`."""
        seen = await self._outbox.stream()
        # Before it is compared: else the end of a stream that takes its place in between would be taken for its own.
        end = await self._stream.end()
        if seen is not None and not await self._stream.holds(seen):
            log.warning("another stream, or an older copy of it: what the outbox still has is published again")
            count = await self._outbox.republish(EVER)
            log.info("published again", events=count)
        if end != seen:
            await self._outbox.saw(end)

    # --- what an operator sees

    async def _housekeeping(self) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._looked_s >= _LOOK_S:
            await self.look()
            self._looked_s = now_s
        if now_s - self._measured_s >= _POLL_S:
            await self.measure()
        if now_s - self._tidied_s >= _TIDY_S:
            self._tidied_s = now_s
            if deleted := await self._outbox.tidy(self._keep):
                log.info("published events deleted", count=deleted)

    async def measure(self) -> None:
        """Look at how much waits, for the metrics."""
        self._waiting = await self._outbox.waiting()
        self._measured_s = self._clock.monotonic_s()

    async def _measure_quietly(self) -> None:
        if self._clock.monotonic_s() - self._measured_s >= _POLL_S:
            with contextlib.suppress(DatabaseFault):
                await self.measure()

    def _oldest_s(self) -> float:
        oldest = self._waiting.oldest
        return 0.0 if oldest is None else max(0.0, self._clock.now_ms() / 1000 - oldest.timestamp())

    def _now(self, trouble: str, **more: Any) -> None:
        if trouble and trouble != self._trouble:
            log.warning("events wait in the outbox", reason=trouble, **more)
        elif self._trouble and not trouble:
            log.info("events are published again")
        self._trouble = trouble

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._outbox!r} {self._trouble or 'well'}>"


def waves(events: Sequence[Event], most: int) -> Iterator[list[Event]]:
    """Split so that no subject is twice in a wave of at most so many, and each one's events are in their order."""
    later = list(events)
    while later:
        wave: dict[UUID, Event] = {}
        rest: list[Event] = []
        for event in later:
            if event.subject in wave:
                rest.append(event)
            else:
                wave[event.subject] = event
        once = list(wave.values())
        for first in range(0, len(once), most):
            yield once[first : first + most]
        later = rest
