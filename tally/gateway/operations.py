"""What is told of deferred operations, and what can be asked of them: the stream is their only memory.

A deferred operation is one message of its own subject, ``tally.event.operation.deferred.<partition>.<id>``; what
becomes of it follows on ``tally.event.operation.<state>.<id>``. So the broker, asked for the newest message of each,
says how it stands, and no gateway needs a database.

Its id is a UUID of version 8, laid out as version 7 is: so that nobody asks the halves for it. They know its attempts,
which are operations with ids of their own.

Assumes one partition per author, the same in every gateway: within it operations are carried out one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from uuid import UUID, uuid5

import msgspec
import structlog
from msgspec import Meta
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from tally.chassis.clock import Clock
from tally.messaging.event import NO_INCARNATION, PREFIX, Event, decode
from tally.messaging.stream import STREAM, Stream, StreamUnavailable
from tally.protocol import operation
from tally.protocol.relationship import Relationship

log = structlog.get_logger()

#: How many operations may be under way at once. A change of it would put an author's next operation beside the last.
PARTITIONS: Final = 16
#: States that nothing follows.
FINAL: Final = frozenset({"confirmed", "rejected", "abandoned"})
_VERSION: Final = 0xF << 76
_VERSION_8: Final = 0x8 << 76
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def deferred_id(time_ms: int, random_bits: int) -> UUID:
    """An id for a deferred operation."""
    return UUID(int=operation.make(time_ms, random_bits).int & ~_VERSION | _VERSION_8)


def is_deferred(id: UUID) -> bool:
    """Whether the id is one of a deferred operation."""
    return id.version == 8


def partition_of(left: UUID) -> int:
    """Where the operations of an author are. (The lowest bits of a UUID are random.)"""
    return left.int % PARTITIONS


@dataclass(frozen=True, slots=True)
class Deferral:
    """A request that is to be carried out later."""

    operation: UUID
    left: UUID
    right: UUID
    requested_at: datetime
    traceparent: str | None = None
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """How a deferred operation stands: ``state`` is ``deferred``, or that of the last thing told; ``data`` with it."""

    deferral: Deferral
    state: str
    data: dict[str, Any]
    version: int
    """Of the last thing told: what is told next has a greater one, whatever the clock of who tells it."""

    @property
    def attempts(self) -> int:
        """How many there were, as far as it was told."""
        told = self.data.get("attempt", 0)
        return told if isinstance(told, int) else 0


class Operations:
    """The deferred operations of one relationship, in the stream."""

    def __init__(self, stream: Stream, relationship: Relationship, service: str, clock: Clock) -> None:
        self._stream = stream
        self._relationship = relationship
        self._source = f"/tally/{service}"
        self._clock = clock
        self._left, self._right = relationship.left.entity, relationship.right.entity

    # --- telling

    async def defer(self, deferral: Deferral, *, again: int = 0) -> None:
        """Stored for good when this returns. ``again``: it was parked, and this is the version of that.

        Raises `StreamUnavailable`: then it is stored, or not, or later.
        """
        data = {**self._names(deferral), "requested_at": deferral.requested_at}
        event = self._event(deferral, "deferred", data, after=again)
        subject = f"{PREFIX}.operation.deferred.{partition_of(deferral.left)}.{deferral.operation}"
        await self._stream.publish(event, subject=subject)

    async def tell(self, deferral: Deferral, state: str, data: dict[str, Any], *, after: int) -> int:
        """Tell a state and return its version, which is greater than ``after``. Raises `StreamUnavailable`.

        A final state has one id however often it is told: who tells it again after a crash tells nothing new.
        """
        event = self._event(deferral, state, {"operation": deferral.operation, **data}, after=after)
        await self._stream.publish(event)
        return event.entityversion

    async def tell_end(self, deferral: Deferral, state: str, data: dict[str, Any], *, after: int) -> None:
        """Tell a final state, with the pair."""
        await self.tell(deferral, state, {**self._names(deferral), **data}, after=after)

    def _names(self, deferral: Deferral) -> dict[str, Any]:
        return {"operation": deferral.operation, self._left: deferral.left, self._right: deferral.right}

    def _event(self, deferral: Deferral, state: str, data: dict[str, Any], *, after: int) -> Event:
        version = max(self._clock.now_ms() * 1000, after + 1)
        once = state in FINAL or (state == "deferred" and not after)
        return Event(
            id=uuid5(deferral.operation, state if once else f"{state}.{version}"),
            source=self._source,
            type=f"operation.{state}",
            time=_EPOCH + timedelta(microseconds=version),
            subject=deferral.operation,
            incarnation=NO_INCARNATION,
            entityversion=version,
            traceparent=deferral.traceparent,
            actor=deferral.actor,
            data=msgspec.to_builtins(data),
        )

    # --- asking

    async def standing(self, id: UUID) -> Standing | None:
        """How the operation stands; None if nobody has deferred it. Raises `StreamUnavailable`."""
        deferred = await self._newest(f"{PREFIX}.operation.deferred.*.{id}")
        if deferred is None:
            return None
        try:
            deferral = self.deferral(deferred)
        except ValueError:
            return None
        told = await self._newest(f"{PREFIX}.operation.*.{id}")
        # What was told before it was deferred anew does not count any more.
        if told is None or told.entityversion < deferred.entityversion:
            return Standing(deferral, "deferred", {}, deferred.entityversion)
        return Standing(
            deferral, "deferred" if told.change == "retried" else told.change, told.data, told.entityversion
        )

    async def was_created(self, attempt: UUID) -> bool:
        """Whether the owner has told of this operation: only what was recorded on both sides is told of.

        Raises `StreamUnavailable`.
        """
        return await self._last(f"{PREFIX}.{self._relationship.name}.*.{attempt}") is not None

    def deferral(self, event: Event) -> Deferral:
        """The request that an ``operation.deferred`` holds. Raises ValueError."""
        data = event.data
        left, right = (msgspec.convert(data.get(name), UUID) for name in (self._left, self._right))
        requested_at = msgspec.convert(data.get("requested_at"), Annotated[datetime, Meta(tz=True)])
        return Deferral(event.subject, left, right, requested_at, event.traceparent, event.actor)

    async def _newest(self, subject: str) -> Event | None:
        """The last event; None if there is none, or what is there is none."""
        body = await self._last(subject)
        try:
            return None if body is None else decode(body)
        except ValueError:
            log.warning("not an event", subject=subject)
            return None

    async def _last(self, subject: str) -> bytes | None:
        try:
            message = await (await self._stream.jetstream()).get_last_msg(STREAM, subject)
        except NotFoundError:
            return None
        except (NatsError, OSError) as error:
            raise StreamUnavailable(str(error) or type(error).__name__) from error
        return message.data or b""
