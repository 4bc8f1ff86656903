"""What a consumer has applied, kept in its own database: each message is taken in one transaction with its effects.

    taken = await journal.take(messages)        advances the cursor, drops what is known, applies the rest

Theory. The position that counts is the cursor's, not the broker's: it moves in the transaction that applies, from
where the caller believes it to be (compare and set), so a message is applied once although the broker delivers it
several times, and of two processes that both believe to consume one gets through. What else makes an event known:

  * A consumer of states (the usual): an event is new if its (incarnation, version) is greater than what was applied
    last of its subject. That is kept for ever, deletions too, so neither duplicates nor reordering nor a stream that
    was filled again from the outboxes can bring back an older state.
  * A consumer of every event: an event is new if its id was not seen in the last 30 days, which is longer than the
    outboxes keep what they could publish again. (The broker's own redelivery is older than the cursor, whatever
    its age.) What it applies must not mind the same event again after that.

What cannot be applied is parked, and all that comes of the same subject is parked behind it, in order; other subjects
flow. What cannot be decoded is parked alone: nobody knows what would have to wait for it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final, TypeAlias
from uuid import UUID

from msgspec import Struct

from tally.chassis.database import Connection, Database, storable
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.queries import load_queries
from tally.messaging.event import Event, decode
from tally.messaging.stream import Bookmark, fingerprint

queries: Final = load_queries(files("tally.messaging").joinpath("inbox.sql"))

#: How long the ids of events are kept, for consumers of every event.
SEEN_FOR: Final = timedelta(days=30)

#: An entity's name and its id: what an event is about.
Subject: TypeAlias = tuple[str, UUID]


class Delivered(Struct, frozen=True):
    """An event as it came from the stream."""

    event: Event
    sequence: int
    """Its place in the stream."""
    redelivered: bool = False


Apply: TypeAlias = Callable[[Connection, Sequence[Delivered]], Awaitable[None]]
"""Applies events that are new, in the order of the stream, in the transaction that it is given."""


class Message(Struct, frozen=True):
    """A message of the stream: an event, or, if it can't be decoded, why not."""

    sequence: int
    body: bytes
    redelivered: bool = False
    event: Event | None = None
    fault: str = ""

    @classmethod
    def of(cls, sequence: int, body: bytes, *, redelivered: bool = False) -> Message:
        try:
            return cls(sequence, body, redelivered, decode(body))
        except ValueError as error:
            return cls(sequence, body, redelivered, fault=f"it is not an event: {storable(str(error))}")


class Taken(Struct, frozen=True):
    """What became of some messages, in numbers."""

    applied: int = 0
    duplicate: int = 0
    parked: int = 0


class Position(Struct, frozen=True):
    """How far a consumer is."""

    stream: str | None
    sequence: int
    parked: int
    message: bytes | None = None
    """The fingerprint of what it stands on."""

    @property
    def bookmark(self) -> Bookmark:
        return Bookmark(self.stream or "", self.sequence, self.message)


class Parked(Struct, frozen=True):
    """A message that was set aside. `event` is None where it could not be decoded."""

    consumer: str
    sequence: int
    entity: str | None
    subject: UUID | None
    reason: str
    attempts: int
    at: datetime
    event: Event | None = None


class Retried(Struct, frozen=True):
    """What a retry did: how many were applied (or were not new any more), how many still wait, and why."""

    applied: int
    waiting: int
    reason: str | None = None


class Overtaken(Exception):
    """The cursor is not where it was left: somebody else consumes."""


class Journal:
    """The record of one consumer. Any number of processes may have one; their transactions exclude each other."""

    def __init__(self, consumer: str, apply: Apply, database: Database, *, every_event: bool = False) -> None:
        self.consumer = consumer
        self._apply = apply
        self._database = database
        self._every_event = every_event
        #: In which stream the cursor is, and where: as it was left by this process, or read last.
        self.stream = ""
        self.sequence = 0

    # -- the cursor

    async def position(self) -> Position:
        """Where the cursor is, whoever moved it."""
        row = await self._database.fetchrow(queries.position, self.consumer)
        if row is None:
            await self._database.execute(queries.enrol, self.consumer)
            return Position(None, 0, 0)
        return Position(row["stream"], row["sequence"], row["parked"], row["message"])

    def go_on(self, at: Position) -> None:
        """From where the cursor is."""
        self.stream, self.sequence = at.bookmark.stream, at.sequence

    async def begin(self, stream: str) -> None:
        """From the beginning of another stream."""
        async with self._database.transaction() as tx:
            await tx.execute(queries.lock, self.consumer)
            await tx.execute(queries.renumber, self.consumer)
            await tx.execute(queries.adopt, self.consumer, stream)
        self.stream, self.sequence = stream, 0

    # -- taking messages

    async def take(self, messages: Sequence[Message]) -> Taken:
        """Applies what is new of messages in the order of the stream, and parks what must wait: all or nothing.

        Raises `Overtaken`, `DatabaseFault`, and whatever `apply` raises.
        """
        async with self._database.transaction() as tx:
            await self._advance(tx, messages[-1])
            fresh, waiting = await self._sorted(tx, messages)
            await self._park(tx, waiting)
            await self._applied(tx, fresh)
        self.sequence = messages[-1].sequence
        return Taken(len(fresh), len(messages) - len(fresh) - len(waiting), len(waiting))

    async def park(self, message: Message, reason: str, attempts: int) -> None:
        """Sets aside a message that could not be applied."""
        async with self._database.transaction() as tx:
            await self._advance(tx, message)
            if message.event is not None and self._every_event:
                await tx.execute(queries.see, self.consumer, [message.event.id])
            await self._park(tx, [(message, reason, attempts)])
        self.sequence = message.sequence

    async def _advance(self, tx: Connection, to: Message) -> None:
        place = (self.consumer, self.stream, self.sequence)
        if await tx.fetchval(queries.advance, *place, to.sequence, fingerprint(to.body)) is None:
            raise Overtaken(f"the cursor of {self.consumer} is not at {self.sequence} any more")

    async def _sorted(
        self, tx: Connection, messages: Sequence[Message]
    ) -> tuple[list[Delivered], list[tuple[Message, str, int]]]:
        """What is to be applied, and what has to wait."""
        known = await self._known(tx, messages)
        fresh: list[Delivered] = []
        waiting: list[tuple[Message, str, int]] = []
        for message in messages:
            if (event := message.event) is None:
                waiting.append((message, message.fault, 1))
            elif not known.learn(event):
                continue
            elif (event.entity, event.subject) in known.parked:
                waiting.append((message, "an earlier event of this subject is parked", 0))
            else:
                fresh.append(Delivered(event, message.sequence, message.redelivered))
        return fresh, waiting

    async def _known(self, tx: Connection, messages: Sequence[Message]) -> _Known:
        events = [message.event for message in messages if message.event is not None]
        subjects = list(dict.fromkeys((event.entity, event.subject) for event in events))
        rows = await tx.fetch(queries.known, self.consumer, [s[0] for s in subjects], [s[1] for s in subjects])
        parked = {(row["entity"], row["subject"]) for row in rows if row["parked"]}
        if self._every_event:
            new = await tx.fetch(queries.see, self.consumer, [event.id for event in events])
            await tx.execute(queries.forget, SEEN_FOR)
            return _Known(parked, unseen={row["id"] for row in new})
        orders = {(r["entity"], r["subject"]): (r["inc"], r["version"]) for r in rows if r["inc"] is not None}
        return _Known(parked, orders=orders)

    async def _applied(self, tx: Connection, fresh: Sequence[Delivered]) -> None:
        if not fresh:
            return
        await self._apply(tx, fresh)
        if not self._every_event:
            newest = {(one.event.entity, one.event.subject): one.event for one in fresh}
            await tx.execute(queries.remember, self.consumer, *_columns(list(newest.values())))

    async def _park(self, tx: Connection, waiting: Sequence[tuple[Message, str, int]]) -> None:
        if waiting:
            await tx.execute(
                queries.park,
                self.consumer,
                [message.sequence for message, _, _ in waiting],
                [message.event and message.event.entity for message, _, _ in waiting],
                [message.event and message.event.subject for message, _, _ in waiting],
                [message.body for message, _, _ in waiting],
                [reason for _, reason, _ in waiting],
                [attempts for _, _, attempts in waiting],
            )

    # -- what is parked

    async def parked(self, after: int, limit: int) -> list[Parked]:
        """What is set aside, in the order of the stream."""
        rows = await self._database.fetch(queries.parked, self.consumer, after, limit)
        return [
            Parked(self.consumer, event=Message.of(row["sequence"], row["body"]).event, **_without_body(row))
            for row in rows
        ]

    async def retry(self, sequence: int) -> Retried | None:
        """Applies what is parked of the same subject, the oldest first, until one fails; None if nothing is."""
        about = await self._database.fetchrow(queries.subject, self.consumer, sequence)
        if about is None:
            return None
        if about["subject"] is None:
            reason = await self._again(sequence)
            return Retried(1, 0) if reason is None else Retried(0, 1, reason)
        applied = 0
        while True:
            oldest = await self._database.fetchrow(queries.oldest, self.consumer, about["entity"], about["subject"])
            if oldest is None or not oldest["waiting"]:
                return Retried(applied, 0)
            if (reason := await self._again(oldest["sequence"])) is not None:
                return Retried(applied, oldest["waiting"], reason)
            applied += 1

    async def drop(self, sequence: int) -> bool:
        """Gives a parked message up for good; what waits behind it goes on waiting. False: there is none."""
        return await self._database.execute(queries.drop, self.consumer, sequence) == "DELETE 1"

    async def _again(self, sequence: int) -> str | None:
        """Applies one that was parked; why it could not be."""
        try:
            async with self._database.transaction() as tx:
                await tx.execute(queries.lock, self.consumer)
                body = await tx.fetchval(queries.taken, self.consumer, sequence)
                if body is not None:
                    await self._unpark(tx, Message.of(sequence, body, redelivered=True))
        except DatabaseFault:
            raise
        except Exception as error:
            reason = said(error)
            await self._database.execute(queries.failed_again, self.consumer, sequence, reason)
            return reason
        return None

    async def _unpark(self, tx: Connection, message: Message) -> None:
        event = message.event
        if event is None:
            raise ValueError(message.fault)
        if await self._still_new(tx, event):
            await self._applied(tx, [Delivered(event, message.sequence, redelivered=True)])
        await tx.execute(queries.drop, self.consumer, message.sequence)

    async def _still_new(self, tx: Connection, event: Event) -> bool:
        """Whether it is newer than what was applied. (Its id was seen when it was parked, which says nothing.)"""
        if self._every_event:
            await tx.execute(queries.see, self.consumer, [event.id])
            return True
        row = await tx.fetchrow(queries.known, self.consumer, [event.entity], [event.subject])
        return row is None or row["inc"] is None or event.order > (row["inc"], row["version"])

    def __repr__(self) -> str:
        return f"<Journal {self.consumer} at {self.sequence}>"


class _Known:
    """What is known of the subjects of some messages, and is learnt from them one by one."""

    def __init__(
        self,
        parked: set[Subject],
        *,
        orders: dict[Subject, tuple[UUID, int]] | None = None,
        unseen: set[UUID] | None = None,
    ) -> None:
        self.parked = parked
        self._orders = orders if orders is not None else {}
        self._unseen = unseen

    def learn(self, event: Event) -> bool:
        """Whether the event is new; from now on it is not."""
        if self._unseen is not None:
            new = event.id in self._unseen
            self._unseen.discard(event.id)
            return new
        subject = (event.entity, event.subject)
        last = self._orders.get(subject)
        if last is not None and event.order <= last:
            return False
        self._orders[subject] = event.order
        return True


def said(error: BaseException) -> str:
    """An error as one line, which may quote a message: what can't be stored can't be parked."""
    return f"{type(error).__name__}: {storable(str(error))}" if str(error) else type(error).__name__


def _columns(events: Sequence[Event]) -> list[list[Any]]:
    return [
        [event.entity for event in events],
        [event.subject for event in events],
        [event.incarnation for event in events],
        [event.entityversion for event in events],
        [event.change == "deleted" for event in events],
    ]


def _without_body(row: Any) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "body"}
