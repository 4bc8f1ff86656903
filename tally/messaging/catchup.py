"""Catching up: a restored database learns from the stream what it told after its backup was made.

    await CatchUp(stream, ["conference", "event"]).run(session, later={"attendance": settled_ms}, skip=False)

Assumes `sql/0003_restore.sql` and `sql/0005_restore_keeps.sql`, and that nobody changes the entities meanwhile
(`incarnation.restoring`).
It may stop anywhere: what counts is one transaction at the end.

The stream is read from its beginning and folded to the newest state of each subject, by (incarnation, version). Then,
without telling anybody again: what is newer than the database replaces it; what was deleted is deleted; both are in the
outbox again, as published, so that a stream that is lost later can be filled with them. The database
begins a new life, whose id is greater than all there were, so that what it tells from now on wins. What the stream does
not know (it was not published when the backup was made) is told again. What was never published is lost, and nobody
else has heard of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Container, Iterable, Mapping, Sequence
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError
from uuid_utils.compat import uuid7

from tally.chassis.body import flaw
from tally.chassis.database import Connection, Record, storable
from tally.chassis.queries import load_queries
from tally.messaging.event import PREFIX, Event, decode, newest
from tally.messaging.stream import STREAM, Stream, StreamUnavailable
from tally.protocol import operation

_BATCH: Final = 1000
_FETCH_S: Final = 5.0
#: The broker forgets our consumer when nobody has asked it for so long.
_IDLE_S: Final = 60.0
_TIME_MS: Final = 0xFFFF_FFFF_FFFF

#: Changes after which a subject is no more.
_ENDS: Final = frozenset({"deleted", "cancelled"})

queries = load_queries(files("tally.messaging").joinpath("catchup.sql"))
log = structlog.get_logger()


#: What a patient connection is told first.
PATIENT: Final = (
    "SET statement_timeout = 0; SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = 0;"
    "SET plan_cache_mode = auto"
)
_PATIENCE_S: Final = 3600.0


#: Of entities, or of what their columns can hold.
_CONTRADICTIONS: Final = (asyncpg.IntegrityConstraintViolationError, asyncpg.DataError)


class Patient:
    """A connection whose statements may take as long as they take."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.transaction = connection.transaction

    async def execute(self, query: str, *args: Any) -> str:
        return await self._connection.execute(query, *args, timeout=_PATIENCE_S)

    async def fetch(self, query: str, *args: Any) -> list[Record]:
        return await self._connection.fetch(query, *args, timeout=_PATIENCE_S)

    async def fetchrow(self, query: str, *args: Any) -> Record | None:
        return await self._connection.fetchrow(query, *args, timeout=_PATIENCE_S)

    async def fetchval(self, query: str, *args: Any) -> Any:
        return await self._connection.fetchval(query, *args, timeout=_PATIENCE_S)


class CatchUp:
    """What one service owns: its entities, each after those that it refers to."""

    def __init__(self, stream: Stream, entities: Sequence[str]) -> None:
        self._stream = stream
        self._entities = list(entities)

    async def run(self, session: Patient, *, later: Mapping[str, int], skip: bool) -> None:
        """Catch up. ``later``: take note of these subjects too, if their ids are of later than this (Unix ms).
        ``skip``: without the stream; then everything is told again. Raises `StreamUnavailable`."""
        await session.execute(queries.forget)
        for entity in self._entities:
            await session.execute(queries.has, entity)
        if not skip:
            async for events in replayed(self._stream, [*self._entities, *later]):
                await self._take(session, [one for one in events if _matters(one, later) and not flaw(one.data)])
        await self._apply(session)

    async def _take(self, session: Patient, events: Sequence[Event]) -> None:
        told = newest(events)
        await session.execute(
            queries.take,
            [event.entity for event in told],
            [event.subject for event in told],
            [event.incarnation for event in told],
            [event.entityversion for event in told],
            [event.change in _ENDS for event in told],
            [msgspec.json.encode(event.data).decode() for event in told],
            [event.id for event in told],
            [event.type for event in told],
            [event.time for event in told],
        )

    async def _apply(self, session: Patient) -> None:
        try:
            async with session.transaction():
                await session.execute(queries.replaying)
                # Rows depend on one another, in whatever order they changed: the constraints are looked at in the end.
                await session.execute("SET CONSTRAINTS ALL DEFERRED")
                for entity in reversed(self._entities):
                    await session.execute(queries.delete, entity, None)
                for entity in self._entities:
                    await session.execute(queries.upsert, entity, None)
                await session.execute("SET CONSTRAINTS ALL IMMEDIATE")
                await self._live_on(session)
        except _CONTRADICTIONS as error:
            log.warning("what the stream knows contradicts this database", reason=str(error))
            async with session.transaction():
                await session.execute(queries.replaying)
                await self._apply_each(session)
                await self._live_on(session)

    async def _apply_each(self, session: Patient) -> None:
        """One by one, again and again as long as that helps; what remains is reported."""
        rows = await session.fetch(queries.fresh, self._entities)
        todo = sorted(rows, key=lambda row: (not row["deleted"], self._rank(row["entity"], row["deleted"])))
        while todo:
            left = []
            for row in todo:
                try:
                    async with session.transaction():
                        await session.execute(
                            queries.delete if row["deleted"] else queries.upsert, row["entity"], row["subject"]
                        )
                except _CONTRADICTIONS as error:
                    left.append((row, error.constraint_name or storable(str(error))))
            if len(left) == len(todo):
                for row, constraint in left:
                    await session.execute(queries.conflict, row["entity"], row["subject"], constraint)
                return
            todo = [row for row, _ in left]

    def _rank(self, entity: str, deleted: bool) -> int:
        rank = self._entities.index(entity)
        return -rank if deleted else rank

    async def _live_on(self, session: Patient) -> None:
        """The new life, in the transaction of what it begins with."""
        await session.execute(queries.live, later_than(await session.fetchval(queries.greatest)))
        for entity in self._entities:
            await session.execute(queries.keep, entity)
            await session.execute(queries.retell, entity)
        await session.execute(queries.caught_up)


def later_than(*incs: UUID | None) -> UUID:
    """A new incarnation, greater than these, even if the clock was set back."""
    newest_ms = max((operation.time_ms(inc) for inc in incs if inc is not None), default=0)
    drawn = uuid7()
    return operation.make(min(max(operation.time_ms(drawn), newest_ms + 1), _TIME_MS), drawn.int)


async def replayed(stream: Stream, entities: Iterable[str]) -> AsyncIterator[list[Event]]:
    """All events of these entities that are in the stream now, in its order. Raises `StreamUnavailable`."""
    entities = frozenset(entities)
    jetstream = await stream.jetstream()
    config = ConsumerConfig(
        filter_subjects=[f"{PREFIX}.{entity}.>" for entity in entities],
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.NONE,
        inactive_threshold=_IDLE_S,
        mem_storage=True,
    )
    try:
        subscription = await jetstream.pull_subscribe("", stream=STREAM, config=config)
        try:
            left = (await subscription.consumer_info()).num_pending or 0
            delivered = 0
            while left:
                messages = await subscription.fetch(_BATCH, timeout=_FETCH_S)
                if not messages:  # nats-py's word for some of what the broker says instead
                    raise StreamUnavailable("the broker stopped sending")
                delivered += len(messages)
                if messages[-1].metadata.sequence.consumer != delivered:
                    raise StreamUnavailable("a message was lost on its way")
                left = messages[-1].metadata.num_pending
                yield _decoded([message.data for message in messages], entities)
        finally:
            with contextlib.suppress(NatsError, OSError):
                await subscription.unsubscribe()
    except TimeoutError as error:  # of nats-py, or the plain one: it raises both
        raise StreamUnavailable("the broker stopped sending") from error
    except (NatsError, OSError) as error:
        raise StreamUnavailable(str(error) or type(error).__name__) from error


async def last_event(stream: Stream, entity: str) -> Event | None:
    """The event of the entity that is latest in the stream; None if there is none. Raises `StreamUnavailable`."""
    jetstream = await stream.jetstream()
    try:
        message = await jetstream.get_last_msg(STREAM, f"{PREFIX}.{entity}.>")
    except NotFoundError:
        return None
    except (NatsError, OSError) as error:
        raise StreamUnavailable(str(error) or type(error).__name__) from error
    return next(iter(_decoded([message.data or b""], {entity})), None)


def ends(event: Event) -> bool:
    """Whether its subject is no more."""
    return event.change in _ENDS


def _decoded(bodies: Iterable[bytes], entities: Container[str]) -> list[Event]:
    """What is no event, or not of the entity that its place in the stream says, tells nothing of these."""
    events = []
    for body in bodies:
        with contextlib.suppress(ValueError):
            events.append(decode(body))
    return [event for event in events if event.entity in entities]


def _matters(event: Event, later: Mapping[str, int]) -> bool:
    after_ms = later.get(event.entity)
    return after_ms is None or operation.time_ms(event.subject) > after_ms
