"""Rebuilds a projection from the stream's beginning, beside the one that is read, and switches to it while serving.

    rebuild = Rebuild("view", consumer, SUBJECTS, shadow, TABLES, stream, database, signals)
    await rebuild.begin()         the shadow is emptied; the agent (run, run_once) does the rest
    await rebuild.standing()      how far it is, and how the last one ended

Theory. The projection lives twice, in the schemas `live` and `shadow`. The shadow is told the stream by a consumer of
its own; its position moves in the transaction that applies, so whoever comes after a crash goes on there. Near the end
the live view is held where it is (the row of its inbox's cursor is locked, which every batch moves), the shadow is told
the rest up to there, and the schemas change names in one transaction: nobody ever reads half of either. What the
shadow may know beyond that point comes to it a second time, which it must not mind: both are told by the same function,
and it must not depend on order or repetition.

Before the lock is given back, a snapshot is taken of both; in it they are compared by digest, at leisure. A difference
is no failure of the rebuild: it is what the rebuild was for. It is reported.

An event that the shadow cannot be told is skipped and counted; the live view has parked it, and a retry there comes
after the switch. Any number of processes may do all this at once: compare and set lets one of them through.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Any, Final, Protocol

import msgspec
import structlog
from msgspec import Struct
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tally.chassis import migrate
from tally.chassis.database import Connection, Database
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.migrate import Source
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals
from tally.messaging.digest import Digest, Table, digests
from tally.messaging.event import decode
from tally.messaging.inbox import Delivered
from tally.messaging.stream import STREAM, Stream, StreamUnavailable

log = structlog.get_logger()

_queries: Final = load_queries(files("tally.messaging").joinpath("rebuild.sql"))
#: The migrations of a database that has a rebuildable projection.
SOURCE: Final = Source("rebuild", migrate.files(files("tally.messaging").joinpath("rebuilds")))

_BATCH: Final = 256
_FETCH_S: Final = 1.0
#: The broker forgets the replay's consumer when nobody has asked it for so long.
_CONSUMER_IDLE_S: Final = 30.0
#: The live view is held only when at most so many messages are left, so that it stands still for a moment only.
_NEAR: Final = 256
#: The live view is given so many chances to come to where the shadow is, so that they can be compared.
_AHEAD_MAX: Final = 100
_AHEAD_S: Final = 0.05
_LOOK_S: Final = 2.0
_PAUSE_S: Final = 0.5
#: How long the live view is held at the most, and how long the comparison may take.
_HOLD_MS: Final = 10_000
_COMPARE_MS: Final = 600_000


class Shadow(Protocol):
    """The projection in the schema `shadow`."""

    def apply(self, tx: Connection, delivered: Sequence[Delivered]) -> Awaitable[None]: ...

    def empty(self, tx: Connection) -> Awaitable[None]: ...


class Standing(Struct, frozen=True):
    """How a rebuild stands: ``sequence`` of ``target`` messages of the stream are told. ``equal`` is whether the view
    was the same before it, once that is known; ``skipped`` counts events that could not be applied."""

    state: str
    sequence: int
    target: int
    skipped: int
    started_at: datetime
    ended_at: datetime | None
    before: dict[str, Digest] | None
    after: dict[str, Digest] | None

    @property
    def ratio(self) -> float:
        return 1.0 if self.state == "done" or not self.target else min(1.0, self.sequence / self.target)

    @property
    def equal(self) -> bool | None:
        return None if self.after is None else self.before == self.after


class _Overtaken(Exception):
    """The rebuild is not where it was left: another process goes on with it, or a message was lost on its way."""


class Rebuild:
    """An agent: waits until a rebuild is asked for, or finds one that was left unfinished, and does it."""

    def __init__(
        self,
        projection: str,
        consumer: str,
        subjects: Sequence[str],
        shadow: Shadow,
        tables: Sequence[Table],
        stream: Stream,
        database: Database,
        signals: Signals,
    ) -> None:
        """``consumer`` is the live view's inbox; ``subjects`` are what it is told by."""
        self._projection = projection
        self._consumer = consumer
        self._subjects = list(subjects)
        self._shadow = shadow
        self._tables = tables
        self._stream = stream
        self._database = database
        self._ratio = signals.rebuild_progress_ratio()
        self._ratio.set(1)
        self._asked = asyncio.Event()
        self._replay: _Replay | None = None
        #: How often the shadow was found to be ahead of the live view, which may be slow, or not told at all.
        self._ahead = 0

    async def begin(self) -> bool:
        """Begin one; False if one is under way. Raises `StreamUnavailable`."""
        end = await self._stream.end()
        async with self._database.transaction() as tx:
            if await tx.fetchval(_queries.begin, self._projection, end.sequence, end.stream) is None:
                return False
            await self._shadow.empty(tx)
        self._asked.set()
        return True

    async def standing(self) -> Standing | None:
        """The one under way, or the last; None if there has been none."""
        row = await self._database.fetchrow(_queries.standing, self._projection)
        return None if row is None else msgspec.convert(dict(row.items()), Standing)

    async def digests(self) -> dict[str, Digest]:
        """Of the live view."""
        async with self._database.transaction("repeatable read", read_only=True) as tx:
            return await digests(tx, "live", self._tables)

    async def run(self) -> None:
        while True:
            try:
                while not await self.run_once():
                    pass
            except (StreamUnavailable, NatsError, OSError, DatabaseFault, _Overtaken) as error:
                log.warning("rebuilding pauses", projection=self._projection, reason=str(error) or type(error).__name__)
                await self._forget()
                await asyncio.sleep(_PAUSE_S * random.uniform(1, 2))
                continue
            try:
                async with asyncio.timeout(_LOOK_S * random.uniform(0.5, 1.0)):
                    await self._asked.wait()
            except TimeoutError:
                pass
            self._asked.clear()

    async def run_once(self) -> bool:
        """Tells the shadow one batch more, or switches; True when nothing is left to do."""
        now = await self.standing()
        self._ratio.set(1.0 if now is None else now.ratio)
        if now is None or now.state == "done":
            await self._forget()
            return True
        if self._replay is None or self._replay.sequence != now.sequence:
            await self._forget()
            if await self._begun_anew():
                return False
            self._replay = await _Replay.open(self._stream, self._subjects, now.sequence)
        await self._tell(self._replay, await self._replay.fetch(_FETCH_S))
        if self._replay.left <= _NEAR and not await self._switch(self._replay):
            await asyncio.sleep(_AHEAD_S)
        return False

    async def _begun_anew(self) -> bool:
        """Where the shadow is, is a place of another stream than there is now: it is told all of that one, too."""
        end = await self._stream.end()
        if await self._database.fetchval(_queries.restart, self._projection, end.sequence, end.stream) is None:
            return False
        log.warning("the stream is another one: the rebuild reads it from its beginning", projection=self._projection)
        return True

    async def _tell(self, replay: _Replay, batch: list[Delivered]) -> None:
        if not batch:
            return
        skipped = 0
        try:
            await self._told(replay, batch, 0)
        except (DatabaseFault, _Overtaken):
            raise
        except Exception:
            for one in batch:
                skipped += await self._told_alone(replay, one)
        if skipped:
            log.warning("events skipped in a rebuild", projection=self._projection, events=skipped)

    async def _told(self, replay: _Replay, batch: Sequence[Delivered], skipped: int) -> None:
        """In one transaction with its bookkeeping."""
        async with self._database.transaction() as tx:
            to = batch[-1].sequence
            if await tx.fetchval(_queries.advance, self._projection, replay.sequence, to, skipped) is None:
                raise _Overtaken("another process rebuilds")
            if not skipped:
                await self._shadow.apply(tx, batch)
        replay.sequence = to

    async def _told_alone(self, replay: _Replay, one: Delivered) -> int:
        try:
            await self._told(replay, [one], 0)
        except (DatabaseFault, _Overtaken):
            raise
        except Exception:
            await self._told(replay, [one], 1)
            return 1
        return 0

    # --- the switch

    async def _switch(self, replay: _Replay) -> bool:
        """False: the live view is behind the shadow, and should have the chance to come there."""
        async with self._database.transaction("repeatable read", read_only=True) as snapshot:
            await snapshot.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_COMPARE_MS}")
            await snapshot.execute(f"SET LOCAL statement_timeout = {_COMPARE_MS}")
            async with self._database.transaction() as tx:
                await tx.execute(f"SET LOCAL idle_in_transaction_session_timeout = {_HOLD_MS}")
                held = await tx.fetchval(_queries.hold, self._consumer) or 0
                if replay.sequence > held and self._ahead < _AHEAD_MAX:
                    self._ahead += 1
                    return False
                while replay.sequence < held:
                    batch = await replay.fetch(_FETCH_S)
                    if not batch and not replay.left:
                        break  # what the live view is beyond could not be decoded: it has parked that
                    # What is beyond the live view now comes to the new one by its inbox.
                    await self._tell(replay, [one for one in batch if one.sequence <= held])
                    if batch and batch[-1].sequence >= held:
                        break
                # The first statement that reads takes the snapshot: both views, at the same place of the stream.
                await snapshot.fetchval("SELECT 1")
                if await tx.fetchval(_queries.finish, self._projection) is None:
                    raise _Overtaken("another process has switched")
                await tx.execute(_queries.switch)
            log.info("switched to the rebuilt view", projection=self._projection, sequence=replay.sequence)
            after, before = (
                await digests(snapshot, "live", self._tables),
                await digests(snapshot, "shadow", self._tables),
            )
        await self._database.execute(_queries.compared, self._projection, before, after)
        if before != after:
            log.warning("the rebuilt view differs from the old one", projection=self._projection)
        self._ratio.set(1)
        self._ahead = 0
        return True

    async def _forget(self) -> None:
        replay, self._replay = self._replay, None
        if replay is not None:
            await replay.close()


class _Replay:
    """The stream from some place on, by a consumer that only this process knows."""

    def __init__(self, subscription: JetStreamContext.PullSubscription, sequence: int, left: int) -> None:
        self._subscription = subscription
        self._delivered = 0
        self.sequence = sequence
        self.left = left

    @classmethod
    async def open(cls, stream: Stream, subjects: list[str], sequence: int) -> _Replay:
        jetstream = await stream.jetstream()
        config = ConsumerConfig(
            filter_subjects=subjects,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=sequence + 1,
            ack_policy=AckPolicy.NONE,
            inactive_threshold=_CONSUMER_IDLE_S,
            mem_storage=True,
        )
        subscription = await jetstream.pull_subscribe("", stream=STREAM, config=config)
        return cls(subscription, sequence, (await subscription.consumer_info()).num_pending or 0)

    async def fetch(self, within_s: float) -> list[Delivered]:
        """The next events; what is no event is left out. None at the end of the stream."""
        if not self.left:
            self.left = (await self._subscription.consumer_info()).num_pending or 0
            if not self.left:
                return []
        try:
            messages = await self._subscription.fetch(_BATCH, timeout=within_s)
        except TimeoutError:  # of nats-py, or the plain one: it raises both
            return []
        if not messages:  # nats-py's word for some of what the broker says instead
            return []
        self.left = messages[-1].metadata.num_pending
        delivered = []
        for message in messages:
            self._delivered += 1
            if message.metadata.sequence.consumer != self._delivered:
                raise _Overtaken("a message was lost on its way: going back for it")
            try:
                delivered.append(Delivered(decode(message.data), message.metadata.sequence.stream))
            except ValueError:
                log.warning("not an event", sequence=message.metadata.sequence.stream)
        return delivered

    async def close(self) -> None:
        with contextlib.suppress(NatsError, OSError):
            await self._subscription.unsubscribe()


def shown(standing: Standing | None) -> dict[str, Any]:
    """A rebuild as operators see it."""
    if standing is None:
        return {"state": "none", "ratio": 1.0}
    return {**msgspec.to_builtins(standing), "ratio": standing.ratio, "equal": standing.equal}
