"""The inbox: takes events from the stream and applies each once, in the order of its subject.

    inbox = Inbox(stream, "directory-view", ["tally.event.author.>"], apply, database, signals, clock)
    await inbox.run()

An agent, like the relay: `run` for ever, `run_once` for one batch. Theory: what was applied is known to the journal
(`journal.py`), in the transaction that applied it. The broker's durable consumer only carries the messages here, and
shows operators how far we are: whenever there is doubt (another process led, a message was lost on its way, the
database is an older copy of itself, the stream was made anew or went back), the consumer is made again from where the
journal is.
Doubt is seen by the numbers that the broker gives to its deliveries, which have no gaps. Messages are acknowledged
after the commit; an acknowledgement that is lost costs a delivery, which the journal knows.

One process consumes at a time: who holds an advisory lock in the database. The others ask for it again and again, and
tell how much waits, since nobody else would if the lock were held by somebody who is no more. If two believed to hold
it, the journal's compare and set would let one of them through; but each would take the other's messages, so who holds
it asks every few seconds whether the connection that it goes with is still there.

A batch that can't be applied is taken one by one; a message that can't be applied alone is tried a few times, and
then parked. Trouble with the database itself is no message's fault: it is tried for ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterator, Sequence
from hashlib import sha256
from itertools import count
from typing import Final

import asyncpg
import structlog
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.context import Context
from tally.chassis.database import Connection, Database
from tally.chassis.database_faults import DatabaseFault, DatabaseUnavailable
from tally.chassis.signals import Signals
from tally.messaging.journal import Apply, Delivered, Journal, Message, Overtaken, Parked, Retried, Taken, said
from tally.messaging.stream import STREAM, Stream, StreamUnavailable

__all__ = ["Apply", "Delivered", "Inbox", "Parked", "Retried"]

log = structlog.get_logger()

#: How long a batch may be under way before the broker delivers it again. (Then it is a duplicate.)
ACK_WAIT_S: Final = 30.0
#: How often a message that can't be applied is tried before it is parked, and the first pause in between.
TRIES: Final = 4
_TRY_PAUSE_S: Final = 0.1
#: How long one question for messages waits for the first of them.
_FETCH_S: Final = 5.0
#: Between tries while something is away: doubled each time, with jitter.
_BACKOFF_S: Final = (0.1, 5.0)
#: How often a process that does not lead asks whether it may.
_STANDBY_S: Final = 1.0
#: How often one that leads asks its connection to the database whether it is still there.
_ALIVE_S: Final = 2.0
#: How often one that does not lead asks the broker how much waits.
_WAITING_S: Final = 5.0


class Inbox:
    """One consumer of the stream."""

    def __init__(
        self,
        stream: Stream,
        name: str,
        subjects: Sequence[str],
        apply: Apply,
        database: Database,
        signals: Signals,
        clock: Clock,
        *,
        batch_max: int = 256,
        every_event: bool = False,
    ) -> None:
        """``name`` is the durable consumer's, ``<service>-<what for>``; ``subjects`` are filters as
        ``tally.event.author.>``. ``every_event``: apply each event, and not each state (see `journal.py`)."""
        self.name = name
        self._stream = stream
        self._subjects = list(subjects)
        self._journal = Journal(name, apply, database, every_event=every_event)
        self._database = database
        self._signals = signals
        self._clock = clock
        self._batch_max = batch_max
        self._session: Connection | None = None
        self._leading = False
        self._asked_s = self._waiting_asked_s = float("-inf")
        self._subscription: JetStreamContext.PullSubscription | None = None
        #: How many deliveries the broker has numbered since the consumer was made.
        self._delivered = 0
        self._trouble = ""
        signals.consumed_total.initialise(consumer=[name], outcome=["applied", "duplicate", "parked", "failed"])
        signals.redelivered_total.initialise(consumer=[name])
        signals.projection_lag_seconds.initialise(projection=[name])
        signals.parked_messages.initialise(consumer=[name])
        signals.stream_pending.initialise(consumer=[name])

    @property
    def applied_sequence(self) -> int:
        """The place in the stream up to which all that this consumer wants is applied, or parked."""
        return self._journal.sequence

    async def run(self) -> None:
        """Takes batches for ever. Trouble is logged when it begins and when it is over."""
        pause_s = _BACKOFF_S[0]
        try:
            while True:
                try:
                    await self.run_once()
                    self._well()
                    pause_s = _BACKOFF_S[0]
                    if not self._leading:
                        await asyncio.sleep(_STANDBY_S * random.uniform(0.5, 1.0))
                except Exception as error:
                    self._ill(error)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(pause_s * 2, _BACKOFF_S[1])
        finally:
            await self.close()

    async def run_once(self) -> int:
        """One batch, as soon as there is one: how many messages. 0 after a few seconds without any, and for who
        does not lead. Raises what stood in the way; nothing is lost by it."""
        try:
            if not await self._leads():
                await self._look()
                return 0
            subscription = self._subscription or await self._subscribe()
            messages = await self._fetch(subscription)
            if not messages:
                await self._look()
                return 0
            await self._take(messages)
            return len(messages)
        except BaseException:
            await self._unsubscribe()
            raise

    async def close(self) -> None:
        """Lets another process consume."""
        await self._unsubscribe()
        session, self._session, self._leading = self._session, None, False
        if session is not None:
            session.terminate()

    # -- what is parked

    async def parked(self, after: int, limit: int) -> list[Parked]:
        return await self._journal.parked(after, limit)

    async def retry(self, sequence: int) -> Retried | None:
        """Applies what is parked of the same subject, the oldest first, until one fails; None if nothing is."""
        retried = await self._journal.retry(sequence)
        await self._count_parked()
        return retried

    async def drop(self, sequence: int) -> bool:
        """Gives a parked message up; False if there is none."""
        dropped = await self._journal.drop(sequence)
        await self._count_parked()
        return dropped

    # -- who consumes

    async def _leads(self) -> bool:
        """Whether this process holds the lock. It goes with its connection, which may end without our being told."""
        if self._session is None or self._session.is_closed():
            await self.close()
            self._session = await self._database.session()
        now_s = self._clock.monotonic_s()
        if self._leading and now_s - self._asked_s < _ALIVE_S:
            return True
        try:
            if self._leading:
                await self._session.execute("SELECT 1")
            else:
                self._leading = await self._session.fetchval("SELECT pg_try_advisory_lock($1)", _lock_key(self.name))
        except BaseException as error:
            await self.close()
            if isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError):
                raise DatabaseUnavailable(said(error), nothing_done=True) from error
            raise
        self._asked_s = now_s
        return self._leading

    async def _look(self) -> None:
        """Nothing to do: take note of what others may have changed."""
        position = await self._journal.position()
        self._signals.parked_messages(self.name).set(position.parked)
        if self._leading:
            self._signals.stream_pending(self.name).set(0)
            self._signals.projection_lag_seconds(self.name).set(0)
        else:
            self._journal.sequence = position.sequence
            await self._look_at_what_waits()

    async def _look_at_what_waits(self) -> None:
        """For those who consume; not being told is no trouble."""
        now_s = self._clock.monotonic_s()
        if now_s - self._waiting_asked_s < _WAITING_S:
            return
        self._waiting_asked_s = now_s
        with contextlib.suppress(StreamUnavailable, NatsError, OSError):
            told = await (await self._stream.jetstream()).consumer_info(STREAM, self.name)
            self._signals.stream_pending(self.name).set((told.num_pending or 0) + (told.num_ack_pending or 0))

    async def _count_parked(self) -> None:
        self._signals.parked_messages(self.name).set((await self._journal.position()).parked)

    # -- messages from the broker

    async def _subscribe(self) -> JetStreamContext.PullSubscription:
        """Makes the durable consumer again, from where the journal is."""
        position = await self._journal.position()
        if await self._stream.holds(position.bookmark):
            self._journal.go_on(position)
        else:
            await self._journal.begin((await self._stream.end()).stream)
            if position.stream is not None:
                log.warning("another stream, or an older copy of it: it is read from its beginning", consumer=self.name)
        jetstream = await self._stream.jetstream()
        with contextlib.suppress(NotFoundError):
            await jetstream.delete_consumer(STREAM, self.name)
        await jetstream.add_consumer(STREAM, self._config())
        self._delivered = 0
        self._subscription = await jetstream.pull_subscribe_bind(consumer=self.name, stream=STREAM)
        await self._count_parked()
        return self._subscription

    def _config(self) -> ConsumerConfig:
        return ConsumerConfig(
            durable_name=self.name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=ACK_WAIT_S,
            max_ack_pending=4 * self._batch_max,
            filter_subjects=self._subjects,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._journal.sequence + 1,
        )

    async def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()

    async def _fetch(self, subscription: JetStreamContext.PullSubscription) -> list[Msg]:
        try:
            return await subscription.fetch(self._batch_max, timeout=_FETCH_S)
        except TimeoutError:  # of nats-py, or the plain one: it raises both
            await self._stream.jetstream()  # or nothing can come
            return []

    async def _take(self, messages: Sequence[Msg]) -> None:
        """Applies them, and acknowledges them."""
        name = self.name
        whole = [message for message in messages if self._follows(message)]
        self._signals.redelivered_total(name).inc(sum(message.metadata.num_delivered > 1 for message in whole))
        new = [message for message in whole if message.metadata.sequence.stream > self._journal.sequence]
        self._count(Taken(duplicate=len(whole) - len(new)))
        if new:
            await self._apply([_message(message) for message in new])
        for message in whole:
            await message.ack()
        if len(whole) < len(messages):
            log.warning("lost a message on its way: going back for it", consumer=name, sequence=self.applied_sequence)
            await self._unsubscribe()
        elif whole:
            self._signals.stream_pending(name).set(whole[-1].metadata.num_pending)

    def _follows(self, message: Msg) -> bool:
        """Whether nothing was lost between this delivery and those before it."""
        if message.metadata.sequence.consumer != self._delivered + 1:
            return False
        self._delivered += 1
        return True

    # -- applying

    async def _apply(self, messages: Sequence[Message]) -> None:
        """All at once if that can be done, else one by one."""
        try:
            await self._together(messages)
        except Overtaken:
            raise
        except Exception as error:
            if not isinstance(error, DatabaseFault):
                self._signals.consumed_total(self.name, "failed").inc()
            for message in messages:
                await self._alone(message)

    async def _alone(self, message: Message) -> None:
        """Until it is applied, or parked."""
        failures = 0
        for attempt in count():
            try:
                return await self._together([message])
            except Overtaken:
                raise
            except DatabaseFault as error:
                self._ill(error)
            except Exception as error:
                failures += 1
                self._signals.consumed_total(self.name, "failed").inc()
                if failures == TRIES:
                    return await self._park(message, error)
            await asyncio.sleep(min(_TRY_PAUSE_S * 2 ** min(attempt, 6), _BACKOFF_S[1]) * random.uniform(0.5, 1.0))

    async def _together(self, messages: Sequence[Message]) -> None:
        links = list(_links(messages))
        surroundings = links[0] if len(messages) == 1 and links else context.fresh()
        with (
            context.use(surroundings),
            self._signals.span("consume", links=links, consumer=self.name, messages=len(messages)),
        ):
            self._count(await self._journal.take(messages))
        event = messages[-1].event
        if event is not None:
            lag_s = max(0.0, self._clock.now_ms() / 1000 - event.time.timestamp())
            self._signals.projection_lag_seconds(self.name).set(lag_s)

    async def _park(self, message: Message, error: Exception) -> None:
        await self._journal.park(message, said(error), TRIES)
        self._count(Taken(parked=1))
        event = message.event
        log.error(
            "parked a message",
            consumer=self.name,
            sequence=message.sequence,
            type=event and event.type,
            subject=event and str(event.subject),
            reason=said(error),
            exc_info=error,
        )

    def _count(self, taken: Taken) -> None:
        counter, name = self._signals.consumed_total, self.name
        counter(name, "applied").inc(taken.applied)
        counter(name, "duplicate").inc(taken.duplicate)
        counter(name, "parked").inc(taken.parked)
        if taken.parked:
            self._signals.parked_messages(name).inc(taken.parked)

    # -- trouble is told once

    def _ill(self, error: Exception) -> None:
        trouble = said(error)
        if self._trouble != trouble:
            foreseen = isinstance(error, DatabaseFault | StreamUnavailable | NatsError | Overtaken | OSError)
            log.warning("consuming fails", consumer=self.name, reason=trouble, exc_info=None if foreseen else error)
        self._trouble = trouble

    def _well(self) -> None:
        if self._trouble:
            log.info("consuming again", consumer=self.name)
        self._trouble = ""

    def __repr__(self) -> str:
        state = f"in trouble: {self._trouble}" if self._trouble else "leads" if self._leading else "stands by"
        return f"<Inbox {self.name} at {self.applied_sequence}, {state}>"


def _message(message: Msg) -> Message:
    metadata = message.metadata
    return Message.of(metadata.sequence.stream, message.data, redelivered=metadata.num_delivered > 1)


def _links(messages: Sequence[Message]) -> Iterator[Context]:
    """What caused the events."""
    for message in messages:
        if message.event is not None and (cause := context.linked(message.event.traceparent)) is not None:
            yield cause


def _lock_key(name: str) -> int:
    """Of an advisory lock: 63 bits of the hash of the consumer's name."""
    return int.from_bytes(sha256(f"tally:inbox:{name}".encode()).digest()[:8]) >> 1
