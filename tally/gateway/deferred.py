"""Carries out deferred operations: a process manager whose state is in the stream, so that any gateway can go on.

A partition of the authors is one durable consumer with one message at a time: the operations of an author are carried
out in the order in which they were deferred, those of other partitions beside them. While one waits for a service that
is away, those behind it wait too; they would wait for the same service.

**One operation, one creation.** An operation is carried out by attempts; each is an operation of the protocol with an
id of its own, used once. Before an attempt begins, its id is noted. Whoever carries the operation further (the same
process after no answer came, or another one after a crash, when the message is delivered again) first asks what became
of that attempt, and makes another only when it is proven that it left nothing, now or later:

    both halves live, or ended since     the operation is confirmed. It may have been cancelled meanwhile: the client
                                         saw it and cancelled it, and creating it again would undo that.
    refused                              another attempt. A record that is still on its way comes after its epoch was
                                         closed: that is what made it refused.
    undecided, or not known              wait, and ask again; the settler decides within its lag.

A note can be missing only if no attempt was begun after it was lost (its bucket is as durable as the stream). Even
then two attempts cannot both be live: at each side the pair is held by one operation, so that the second one finds the
first and ends as `Already`, which confirms too.

**Final states** are told before the message is acknowledged. A crash between the two delivers it again, and then the
stream says that it has ended; should two processes tell it, they tell the same event id.

**Who holds a message** says so to the broker every second. One that could not for half the time that the broker waits
lets go before it would begin something: by then the message may be with another gateway. What it had begun is noted.

Assumes nothing of the clocks of gateways but what `too-late` is measured by.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Annotated, Any, Final, assert_never
from uuid import UUID

import structlog
from msgspec import Meta
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.signals import Signals
from tally.gateway import outcome
from tally.gateway.create import Creator
from tally.gateway.notes import Notes, Order
from tally.gateway.operations import FINAL, PARTITIONS, Deferral, Operations
from tally.gateway.status import State, StatusReader
from tally.messaging.event import PREFIX, decode
from tally.messaging.stream import STREAM, Stream, StreamSettings, StreamUnavailable
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

#: After this long without a word of who holds it, the broker gives a message to the next one.
ACK_WAIT_S: Final = 15.0
_HEARTBEAT_S: Final = 1.0
#: How long one attempt, or one question about it, may take; less than what would lose the message.
_ATTEMPT_MAX_S: Final = 5.0
#: Between attempts: doubled each time, with jitter. Nobody can ask for a longer one, since all of a partition wait.
_BACK_OFF_FIRST_S: Final = 0.2
_BACK_OFF_MAX_S: Final = 10.0
#: A bug is tried this often, then the operation is set aside.
_FAILURES_MAX: Final = 5
_FETCH_S: Final = 20.0
_RECONNECT_S: Final = 1.0

log = structlog.get_logger()


class DeferredSettings(StreamSettings, frozen=True, kw_only=True):
    """Settings of a gateway that carries out what was deferred."""

    deferred_max_age_s: Annotated[
        float,
        Meta(gt=0, le=2_592_000, description="How long a deferred operation is tried, until it is rejected."),
    ] = 86_400.0


# --- what an attempt comes to ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The pair is related, by ``attempt``."""

    attempt: UUID


@dataclass(frozen=True, slots=True)
class Rejected:
    """It never will be, for a reason that lasts."""

    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Later:
    """Nothing was recorded; another attempt may do better."""

    reason: str
    service: str | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Open:
    """What became of ``attempt`` is not known yet: it must be, before there is another one."""

    attempt: UUID


Verdict = Confirmed | Rejected | Later | Open


def verdict(result: outcome.CreateOutcome, deferral: Deferral, relationship: Relationship) -> Verdict:
    """What an attempt's outcome means for the operation."""
    left, right = relationship.left.entity, relationship.right.entity
    match result:
        case outcome.Created(op) | outcome.Already(op):
            return Confirmed(op)
        case outcome.NotFound(sides) if len(sides) == len(Side):
            return Rejected("both-not-found", f"There is no {left} {deferral.left}, and no {right} {deferral.right}.")
        case outcome.NotFound(sides):
            entity, id = (left, deferral.left) if sides[0] is Side.LEFT else (right, deferral.right)
            return Rejected(f"{entity}-not-found", f"There is no {entity} {id}.")
        case outcome.Full():
            return Rejected(f"{right}-full", f"No seat is left at {right} {deferral.right}.")
        case outcome.Contended():
            return Later("contended")
        case outcome.ClockSkew():
            return Later("clock-skew")
        case outcome.Unavailable(service, reason, retry_after_s):
            return Later(reason, service, retry_after_s)
        case outcome.Unknown(op):
            return Open(op)
        case _:
            assert_never(result)


class Lost(Exception):
    """The message may be with somebody else by now."""


class _Held:
    """A message that is ours as long as we say so often enough."""

    def __init__(self, message: Msg, clock: Clock, patience_s: float) -> None:
        """``patience_s``: how long we may have said nothing when we begin something."""
        self._message = message
        self._clock = clock
        self._patience_s = patience_s
        self._said_s = clock.monotonic_s()

    async def keep(self) -> None:
        """Say that it is still ours. Raises `Lost` if we could not for too long."""
        now_s = self._clock.monotonic_s()
        if now_s - self._said_s > self._patience_s:
            raise Lost
        if now_s - self._said_s >= _HEARTBEAT_S / 2:
            with contextlib.suppress(NatsError, OSError):
                await self._message.in_progress()
                self._said_s = now_s

    async def done(self) -> None:
        """No more of it. If this is lost, it comes again, and has ended."""
        with contextlib.suppress(NatsError, OSError):
            await self._message.ack()

    async def give_back(self) -> None:
        """To whoever asks next."""
        with contextlib.suppress(NatsError, OSError):
            await self._message.nak()


@dataclass(slots=True)
class _Work:
    """An operation in our hands."""

    deferral: Deferral
    held: _Held
    version: int
    """Of what was told last."""
    attempts: int = 0
    failures: int = 0
    open: UUID | None = None
    """The attempt of which it must be known first what became of it."""
    seen: int = 0
    """The last order that was noticed."""


class Deferred:
    """The process manager of one relationship: settings, constructor, `run`, `run_once`."""

    def __init__(
        self,
        stream: Stream,
        operations: Operations,
        notes: Notes,
        creator: Creator,
        status: StatusReader,
        relationship: Relationship,
        signals: Signals,
        clock: Clock,
        random: Random,
        *,
        name: str = "gateway",
        max_age_s: float = 86_400.0,
        attempt_s: float = 2.0,
        ack_wait_s: float = ACK_WAIT_S,
    ) -> None:
        """``name`` is the service's: its replicas share the consumers of that name."""
        self._stream = stream
        self._operations = operations
        self._notes = notes
        self._creator = creator
        self._status = status
        self._relationship = relationship
        self._signals = signals
        self._clock = clock
        self._random = random
        self._name = name
        self._max_age_s = max_age_s
        self._attempt_s = min(attempt_s, _ATTEMPT_MAX_S)
        self._ack_wait_s = ack_wait_s
        self._subscriptions: dict[int, tuple[JetStreamContext, JetStreamContext.PullSubscription]] = {}
        signals.deferred_attempts_total.initialise(outcome=["confirmed", "rejected", "later", "unknown", "failed"])

    async def run(self) -> None:
        """Works at all partitions until it is cancelled."""
        async with asyncio.TaskGroup() as partitions:
            for partition in range(PARTITIONS):
                partitions.create_task(self._work_at(partition), name=f"deferred-{partition}")

    async def run_once(self, partition: int, *, wait_s: float = _FETCH_S) -> bool:
        """Carry the next operation of a partition to its end, however long that takes. False if there is none.

        Raises `StreamUnavailable`.
        """
        message = await self._next(partition, wait_s)
        if message is None:
            return False
        held = _Held(message, self._clock, self._ack_wait_s / 2)
        try:
            await self._carry_out(message, held)
        except Lost:
            log.warning("another gateway may have the operation", subject=message.subject)
        except (asyncio.CancelledError, StreamUnavailable):
            await held.give_back()
            raise
        return True

    async def _work_at(self, partition: int) -> None:
        while True:
            try:
                await self.run_once(partition)
            except StreamUnavailable:
                await self._pause()
            except Exception as error:
                # (The broker gives the operation to somebody again. The other partitions go on.)
                log.error("deferred work failed", partition=partition, exc_info=error)
                await self._pause()

    async def _pause(self) -> None:
        await asyncio.sleep(_RECONNECT_S * self._random.uniform(0.5, 1.5))

    async def _next(self, partition: int, wait_s: float) -> Msg | None:
        context = await self._stream.jetstream()
        known = self._subscriptions.get(partition)
        try:
            if known is None or known[0] is not context:
                known = self._subscriptions[partition] = (context, await self._subscribe(context, partition))
            messages = await known[1].fetch(1, timeout=wait_s)
        except NatsTimeout:
            return None
        except (NatsError, OSError) as error:
            self._subscriptions.pop(partition, None)
            raise StreamUnavailable(str(error) or type(error).__name__) from error
        return messages[0]

    async def _subscribe(self, context: JetStreamContext, partition: int) -> JetStreamContext.PullSubscription:
        durable = f"{self._name}-deferred-{partition}"
        config = ConsumerConfig(
            durable_name=durable,
            filter_subject=f"{PREFIX}.operation.deferred.{partition}.*",
            deliver_policy=DeliverPolicy.ALL,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=self._ack_wait_s,
            max_ack_pending=1,
            max_deliver=-1,
        )
        await context.add_consumer(STREAM, config)
        return await context.pull_subscribe_bind(durable=durable, stream=STREAM)

    # --- one operation

    async def _carry_out(self, message: Msg, held: _Held) -> None:
        try:
            event = decode(message.data)
            deferral = self._operations.deferral(event)
        except ValueError as error:
            # Not ours, or of a later version than we are: nothing in it says what to do.
            log.error("a deferred operation cannot be read", subject=message.subject, exc_info=error)
            await held.done()
            return
        work = _Work(deferral, held, event.entityversion)
        here = context.fresh()
        with (
            context.use(here if deferral.actor is None else here.with_actor(deferral.actor)),
            self._signals.span("consume", links=_links(deferral), operation_id=deferral.operation),
        ):
            await self._carry(work)

    async def _carry(self, work: _Work) -> None:
        """Until it has ended, or is another's."""
        standing = await self._operations.standing(work.deferral.operation)
        if standing is not None and (standing.state in FINAL or standing.state == "parked"):
            await work.held.done()
            return
        if standing is not None:
            work.version = max(work.version, standing.version)
            work.attempts = standing.attempts
        work.open = await self._notes.attempt(work.deferral.operation)
        _, work.seen = await self._notes.order(work.deferral.operation)
        while not await self._step(work):
            pass

    async def _step(self, work: _Work) -> bool:
        """One attempt, or one question about the last one; whether the operation has ended."""
        await work.held.keep()
        order, _ = await self._notes.order(work.deferral.operation)
        try:
            came_to = await self._decide(work, order)
        except StreamUnavailable:
            raise
        except Exception as error:
            log.error("a deferred operation failed", operation=str(work.deferral.operation), exc_info=error)
            return await self._failed(work, error)
        return await self._follow(work, came_to)

    async def _decide(self, work: _Work, order: Order | None) -> Verdict | None:
        """What the next step comes to; None if it is given up because an operator said so."""
        if work.open is not None:
            came_to = await self._became_of(work.open)
            if not isinstance(came_to, Later):
                return came_to
            # It left nothing, so that it is as if it had not been: now an order, or its age, may end the operation.
            work.open = None
        if order == "abandon":
            return None
        if self._age_s(work.deferral) > self._max_age_s:
            return Rejected("too-late", f"It could not be carried out within {self._max_age_s:g} s.")
        return await self._attempt(work)

    async def _attempt(self, work: _Work) -> Verdict:
        work.attempts += 1
        deferral = work.deferral

        async def begun(op: UUID) -> None:
            await self._notes.begin(deferral.operation, op)
            work.open = op

        result = await self._creator.create(deferral.left, deferral.right, self._deadline(), begun)
        came_to = verdict(result, deferral, self._relationship)
        work.open = came_to.attempt if isinstance(came_to, Open) else None
        return came_to

    async def _became_of(self, attempt: UUID) -> Confirmed | Later | Open:
        told = await self._status.operation(attempt, self._deadline())
        match told.state:
            case State.DONE | State.CANCELLED:
                return Confirmed(attempt)
            case State.REFUSED | State.GONE:
                # Halves that were ended long ago are forgotten; what was told of them is not.
                return Confirmed(attempt) if await self._operations.was_created(attempt) else Later("refused")
            case State.UNDECIDED | State.UNKNOWN:
                return Open(attempt)
            case _:
                assert_never(told.state)

    async def _follow(self, work: _Work, came_to: Verdict | None) -> bool:
        self._signals.deferred_attempts_total(_label(came_to)).inc()
        match came_to:
            case None:
                await self._end(work, "abandoned", {})
            case Confirmed(attempt):
                await self._end(work, "confirmed", {"attempt": attempt})
            case Rejected(code, detail):
                await self._end(work, "rejected", {"code": code, "detail": detail})
            case Later(reason, service, retry_after_s):
                await self._wait(work, reason, service, retry_after_s or 0.0)
                return False
            case Open():
                await self._wait(work, "outcome-unknown", None, 0.0)
                return False
        return True

    async def _failed(self, work: _Work, error: Exception) -> bool:
        """An error that nobody foresaw must not hold up the partition for ever."""
        self._signals.deferred_attempts_total("failed").inc()
        work.failures += 1
        if work.failures < _FAILURES_MAX:
            await self._wait(work, "internal", None, 0.0)
            return False
        data = {"reason": type(error).__name__, "attempts": work.attempts}
        await self._surely(work, lambda: self._operations.tell(work.deferral, "parked", data, after=work.version))
        await work.held.done()
        return True

    async def _end(self, work: _Work, state: str, data: dict[str, Any]) -> None:
        await self._surely(work, lambda: self._operations.tell_end(work.deferral, state, data, after=work.version))
        await work.held.done()
        log.info("deferred operation ended", operation=str(work.deferral.operation), state=state)

    async def _surely(self, work: _Work, tell: Callable[[], Awaitable[object]]) -> None:
        """Again and again while the message is ours; whoever has it then will find out the same."""
        while True:
            await work.held.keep()
            try:
                await tell()
            except StreamUnavailable:
                await asyncio.sleep(_HEARTBEAT_S)
            else:
                return

    async def _wait(self, work: _Work, reason: str, service: str | None, least_s: float) -> None:
        """Until the next step is due, or an operator orders something."""
        wait_s = min(max(least_s, self._back_off_s(max(work.attempts, work.failures))), _BACK_OFF_MAX_S)
        until_s = self._clock.monotonic_s() + wait_s
        if _worth_telling(work.attempts):
            await self._tell_retry(work, reason, service, wait_s)
        while (left_s := until_s - self._clock.monotonic_s()) > 0:
            await asyncio.sleep(min(_HEARTBEAT_S, left_s))
            await work.held.keep()
            _, revision = await self._notes.order(work.deferral.operation)
            if revision != work.seen:
                work.seen = revision
                return

    async def _tell_retry(self, work: _Work, reason: str, service: str | None, wait_s: float) -> None:
        data: dict[str, Any] = {
            "attempt": work.attempts,
            "reason": reason,
            "next_at": datetime.fromtimestamp(self._clock.now_ms() / 1000 + wait_s, UTC),
        }
        if service is not None:
            data["service"] = service
        work.version = await self._operations.tell(work.deferral, "retried", data, after=work.version)

    def _back_off_s(self, attempts: int) -> float:
        longest_s = min(_BACK_OFF_FIRST_S * 2.0 ** min(max(attempts - 1, 0), 16), _BACK_OFF_MAX_S)
        return longest_s * self._random.uniform(0.5, 1.0)

    def _deadline(self) -> Deadline:
        return Deadline.after(self._attempt_s, self._clock.monotonic_s())

    def _age_s(self, deferral: Deferral) -> float:
        return self._clock.now_ms() / 1000 - deferral.requested_at.timestamp()


def _worth_telling(attempts: int) -> bool:
    """The first, the second, the fourth, the eighth …: a day's outage is a dozen events, not ten thousand."""
    return attempts & (attempts - 1) == 0


def _label(came_to: Verdict | None) -> str:
    match came_to:
        case Confirmed():
            return "confirmed"
        case Later():
            return "later"
        case Open():
            return "unknown"
        case _:
            return "rejected"


def _links(deferral: Deferral) -> list[context.Context]:
    origin = context.linked(deferral.traceparent)
    return [] if origin is None else [origin]
