"""The restorer: notices that the service's database is an old copy of itself, and makes it whole before it serves.

An agent of the owner of an entity and of a half. `look` before the public port opens; `run` for ever.

**Noticing.** Any of these is a restore:

- the database does not live where it lived (`tally_home`): a dump, a recovery to a point in time, a failover;
- its marks are behind its peer's, which they never are (`went_back`): an old copy of its volume;
- the stream knows an event of ours that the database does not: the same, and it needs no peer;
- its log is behind where this process saw it: the database was exchanged under a running service;
- the operator says so: TALLY_RESTORED=on, or `tally restore begin`.

If the peer or the stream can't be asked, the service serves by what is known, and asks again until it has an answer.
Before the first answer of the peer no epoch is closed: a closed epoch would hide what went back.

**Making whole.** While `incarnation.restoring`, entities are neither read nor changed; while the mark is `restoring`,
no message of the protocol is served. In the order of the steps, each of which survives a crash:

1. The entities catch up with the stream (`tally.messaging.catchup`); from then on they are served.
2. The halves rejoin the peer: draw a new incarnation, keep it as pending, REJOIN(inc) at the peer, apply the answer.
3. The report is closed. The settler does the rest.

Whoever is missing is waited for, and readiness says so. An operator may go on without the stream (what it knew is lost,
and all that the database has is told again), and without a peer that is being restored itself (that one then rejoins).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Final, Literal
from uuid import UUID

import asyncpg
import structlog
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.database import Connection, Database, Record
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.http import Handler
from tally.chassis.problems import Problem
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals
from tally.halves.peer import Failed, Peer
from tally.halves.postgres import PostgresStore
from tally.halves.schema import lock_key
from tally.halves.store import Reconciled
from tally.messaging.catchup import PATIENT, CatchUp, Patient, ends, last_event, later_than
from tally.messaging.event import Event
from tally.messaging.stream import Stream, StreamUnavailable
from tally.protocol import messages as wire
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

log = structlog.get_logger()

#: What an operator may go on without.
Skippable = Literal["stream", "peer"]

#: How long the start waits for the peer's and the stream's word.
_PEER_S: Final = 1.0
_STREAM_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.02
_PERIOD_S: Final = 1.0
#: Between comparisons of marks while all is well.
_COMPARE_S: Final = 5.0
#: An unanswered REJOIN is followed by another only when it can't arrive any more: it would be believed after that one.
REJOIN_S: Final = 30.0

#: What a report lists one by one: what could not be brought back, and what was ended for it.
LOSSES: Final = (
    "entity-lost",
    "entity-conflict",
    "operation-lost",
    "operation-dropped",
    "operation-cancelled",
    "overbooked",
)
LOSSES_MAX: Final = 1000
_REPORTS_MAX: Final = 20


class Loss(Struct, frozen=True):
    """Something that is not as it was acknowledged."""

    kind: str
    entity: str
    subject: UUID
    detail: str | None


class RestoreReport(Struct, frozen=True):
    """One restore: what was noticed, what it did, and what it could not bring back (at most `LOSSES_MAX` of them)."""

    id: UUID
    reason: str
    begun_at: datetime
    caught_up_at: datetime | None
    ended_at: datetime | None
    skipped: list[str]
    counts: dict[str, int]
    losses: list[Loss]


class RestoreStatus(Struct, frozen=True):
    """Whether a restore is under way, what it waits for, and the latest reports."""

    restoring: bool
    waits_for: str | None
    items: list[RestoreReport]


class _Waits(Exception):
    """Somebody is missing; says who."""


def went_back(side: Side, own: wire.Marked, peer: wire.Marked) -> str | None:
    """Why ``own`` must be an old copy, if it was read after ``peer``; None if nothing says so.

    right.settled <= left.closed <= right.closed, and each side knows every incarnation that the other one was.
    """
    if side is Side.LEFT and own.closed < peer.settled:
        return f"epochs are settled up to {peer.settled} that are not closed here ({own.closed})"
    if side is Side.RIGHT and own.closed < peer.closed:
        return f"epochs are closed up to {peer.closed} at the other side, and up to {own.closed} here"
    if peer.peer_inc > own.inc:
        return f"the other side knows this database as the later incarnation {peer.peer_inc}"
    if peer.inc > own.peer_inc:
        return f"the other side's incarnation {peer.inc} is later than the one known here"
    return None


class Restorer:
    """Of one side of one relationship."""

    def __init__(
        self,
        relationship: Relationship,
        side: Side,
        entities: Sequence[str],
        database: Database,
        peer: Peer,
        stream: Stream,
        signals: Signals,
        clock: Clock,
        *,
        told_restored: bool = False,
    ) -> None:
        """``entities``: what the service owns, each after those it refers to. ``told_restored``: by the operator."""
        self._relationship = relationship
        self._side = side
        self._entities = list(entities)
        self._database = database
        self._peer = peer
        self._stream = stream
        self._clock = clock
        self._told_restored = told_restored
        self._queries = load_queries(
            files("tally.halves").joinpath("sql", "restore.sql"),
            name=relationship.name,
            lock=str(lock_key(relationship) ^ 2),
        )
        self._catching_up = False
        self._rejoining = False
        self._peer_asked = False
        self._stream_asked = False
        self._compared_s = float("-inf")
        self._not_before_s = float("-inf")
        self._waits_for: str | None = None
        #: How far the database's log was on disk when it was last looked at, in bytes.
        self._flushed = 0
        signals.restoring().set_function(lambda: float(self.restoring))

    # -- what others ask

    @property
    def restoring(self) -> bool:
        return self._catching_up or self._rejoining

    async def check(self) -> None:
        """Raises while there is something to restore; for readiness."""
        if self.restoring:
            raise RuntimeError(f"restored from a backup, and {self._waits_for or 'catching up'}")

    def guarded(self, handler: Handler) -> Handler:
        """``handler``, for requests about entities: who has forgotten some can't say that there are none."""

        async def handle(request: Request) -> Response:
            if self._catching_up:
                raise Problem("service-unavailable", "This database was restored from a backup and is catching up.")
            return await handler(request)

        return handle

    def leading(self, leader: Callable[[], Awaitable[bool]]) -> Callable[[], Awaitable[bool]]:
        """``leader``, for the settler: nobody settles who doesn't know whether he went back."""

        async def leads() -> bool:
            if not await leader():
                return False
            if not self._peer_asked:
                await self._compare_marks(_PEER_S)
            return self._peer_asked and not self.restoring

        return leads

    async def before_close(self, message: wire.Close) -> None:
        """The left side's look at each CLOSE: what is settled elsewhere was closed here."""
        if self._side is Side.LEFT and message.since and not self.restoring:
            row = await self._standing()
            if row["closed"] < message.since and not row["restoring"]:
                await self.begin(f"epochs are settled up to {message.since} that are not closed here ({row['closed']})")

    async def status(self) -> RestoreStatus:
        rows = await self._database.fetch(self._queries.reports, _REPORTS_MAX)
        return RestoreStatus(self.restoring, self._waits_for, [await self._report(row) for row in rows])

    async def begin(self, reason: str) -> None:
        """From now on this database is an old copy of itself."""
        await self._database.execute(self._queries.begin, reason)
        self._begun(reason)

    def _begun(self, reason: str) -> None:
        self._catching_up = self._rejoining = True
        self._waits_for = None
        log.warning("this database was restored from a backup", reason=reason)

    async def skip(self, what: Skippable) -> bool:
        """Go on without it; False if nothing is being restored."""
        return (await self._database.execute(self._queries.skip, what)).endswith(" 1")

    # -- noticing

    async def look(self) -> None:
        """Before anything is served."""
        row = await self._standing()
        if row["home"] is None:
            await self._database.execute(self._queries.move_in)
        elif row["home"] != row["here"]:
            await self.begin(f"it lived at {row['home']} and lives at {row['here']}")
        if self._told_restored and not self.restoring:
            await self.begin("the operator says so")
        if not self.restoring:
            await self._compare_marks(_PEER_S)
        if not self.restoring:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STREAM_S):
                    await self._hear_stream()
        self._database.admit = self.admit

    async def admit(self, connection: Connection) -> None:
        """Each new connection while running: is it still the same database, and no older one?"""
        flushed = self._flushed  # as far as was seen before: while this one is asked, another may see more
        row = await connection.fetchrow(self._queries.standing)
        assert row is not None
        if row["home"] != row["here"]:
            reason = f"it lived at {row['home']} and lives at {row['here']}"
        elif row["flushed"] < flushed:
            reason = f"its log was written up to {flushed}, and now up to {row['flushed']}"
        else:
            return
        self._flushed = row["flushed"]
        await connection.execute(self._queries.begin, reason)
        self._begun(reason)

    async def _standing(self) -> Record:
        row = await self._database.fetchrow(self._queries.standing)
        assert row is not None
        self._catching_up, self._rejoining = row["catching_up"], row["restoring"]
        self._flushed = max(self._flushed, row["flushed"])
        return row

    async def _compare_marks(self, within_s: float) -> None:
        """The peer first: marks only move on, so that one's are older than ours."""
        self._compared_s = self._clock.monotonic_s()
        theirs = await self._peer.mark(Deadline.after(within_s, self._compared_s))
        if isinstance(theirs, Failed):
            return
        row = await self._standing()
        if not self._rejoining:
            ours = wire.Marked(row["inc"], row["peer_inc"], row["closed"], row["settled"], row["restoring"])
            if (reason := went_back(self._side, ours, theirs)) is not None:
                await self.begin(reason)
        self._peer_asked = True

    async def _hear_stream(self) -> None:
        while True:
            if await self._compare_stream():
                return
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _compare_stream(self) -> bool:
        """Is the last that the stream knows of each of our entities known here? False: the stream does not answer."""
        try:
            for entity in self._told_entities:
                event = await last_event(self._stream, entity)
                if event is not None and not await self._knows(event) and not (await self._standing())["restoring"]:
                    await self.begin(f"the stream knows {event.type} {event.subject}, and this database does not")
                    return True
        except StreamUnavailable:
            return False
        self._stream_asked = True
        return True

    @property
    def _told_entities(self) -> list[str]:
        """All that this service tells of: the right side tells of operations, too."""
        return self._entities + ([self._relationship.name] if self._side is Side.RIGHT else [])

    async def _knows(self, event: Event) -> bool:
        if event.incarnation > await self._database.fetchval(self._queries.life) and event.entity in self._entities:
            return False
        told = self._queries.told
        if await self._database.fetchval(told, event.id, event.subject, event.entity, *event.order):
            return True
        # The outbox forgets after days what it has published.
        if event.entity == self._relationship.name:
            row = await self._standing()
            return event.incarnation <= row["inc"] and bool(
                await self._database.fetchval(self._queries.knows_operation, event.subject, ends(event))
            )
        version = await self._database.fetchval(f"SELECT version FROM {event.entity} WHERE id = $1", event.subject)
        return version is None if ends(event) else version is not None and version >= event.entityversion

    # -- the agent

    async def run(self) -> None:
        """Looks for ever, and restores if there is something to restore. Trouble is logged when it changes."""
        while True:
            try:
                await self.run_once()
                self._waits(None)
            except _Waits as missing:
                self._waits(str(missing))
            except StreamUnavailable as error:
                self._waits(f"waiting for the stream ({error})")
            except (DatabaseFault, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError) as error:
                self._waits(f"waiting for the database ({error})")
            await asyncio.sleep(_PERIOD_S)

    async def run_once(self) -> None:
        """One look; if it finds something to restore, that as well. Raises what it waits for."""
        await self._standing()
        if not self.restoring:
            if not self._stream_asked:
                await self._compare_stream()
            if not self._peer_asked or self._clock.monotonic_s() - self._compared_s >= _COMPARE_S:
                await self._compare_marks(_PEER_S)
        if self.restoring:
            await self._restore()

    async def _restore(self) -> None:
        session = await self._database.session()
        try:
            await session.execute(PATIENT)
            if not await session.fetchval(self._queries.lead):
                raise _Waits("waiting for another process, which restores it")
            with context.use(context.fresh()):
                under_way = await session.fetchrow(self._queries.open)
                if under_way is None:
                    return  # another process has just ended it
                skipped = under_way["skipped"]
                if under_way["caught_up_at"] is None:
                    await self._catch_up(Patient(session), skip="stream" in skipped)
                await self._rejoin(Patient(session), skip="peer" in skipped)
        finally:
            session.terminate()
        await self._standing()
        # What was compared was somebody else.
        self._peer_asked = self._stream_asked = True

    # -- making whole

    async def _catch_up(self, session: Patient, *, skip: bool) -> None:
        settled_ms = (await self._standing())["settled"]
        later = {self._relationship.name: settled_ms} if self._side is Side.RIGHT else {}
        log.info("catching up with the stream", entities=self._entities, without_the_stream=skip)
        await CatchUp(self._stream, self._entities).run(session, later=later, skip=skip)
        self._catching_up = False
        log.info("caught up with the stream")

    async def _rejoin(self, session: Patient, *, skip: bool) -> None:
        now_s = self._clock.monotonic_s()
        if now_s < self._not_before_s:
            raise _Waits(
                f"waiting for the {self._peer.service} service: the last question to it was not answered, and may "
                f"still arrive for up to {REJOIN_S:g} s"
            )
        theirs = await self._peer.mark(Deadline.after(_PEER_S, now_s))
        if isinstance(theirs, Failed):
            raise _Waits(f"waiting for the {self._peer.service} service ({theirs.reason})")
        row = await self._standing()
        inc = later_than(row["inc"], row["peer_inc"], theirs.inc, theirs.peer_inc)
        if theirs.restoring:
            if not skip:
                raise _Waits(f"waiting for the {self._peer.service} service, which is being restored itself")
            await session.execute(self._queries.stand, inc)
            log.warning("goes on without the other side, which will rejoin", inc=str(inc))
            return
        store = PostgresStore(self._relationship, self._side, session)
        await store.pend(inc)
        self._not_before_s = now_s + REJOIN_S
        reply = await self._peer.rejoin(wire.Rejoin(inc), Deadline.after(REJOIN_S, now_s))
        if isinstance(reply, Failed):
            if not reply.sent:
                self._not_before_s = float("-inf")
            raise _Waits(f"waiting for the {self._peer.service} service ({reply.reason})")
        self._not_before_s = float("-inf")  # it was answered: none is under way
        done = await store.reconcile(reply, inc)
        if done is not None:
            await self._tell(done, inc)

    async def _tell(self, done: Reconciled, inc: UUID) -> None:
        [row] = await self._database.fetch(self._queries.reports, 1)
        report = await self._report(row)
        log.warning(
            "restored",
            inc=str(inc),
            reason=report.reason,
            copied=len(done.copied),
            **{kind.replace("-", "_"): count for kind, count in sorted(report.counts.items())},
            losses=[f"{loss.kind} {loss.subject}" for loss in report.losses[:50]],
        )

    async def _report(self, row: Record) -> RestoreReport:
        losses = await self._database.fetch(self._queries.losses, row["id"], list(LOSSES), LOSSES_MAX)
        return RestoreReport(**dict(row), losses=[Loss(**dict(loss)) for loss in losses])

    def _waits(self, for_what: str | None) -> None:
        if for_what is not None and for_what != self._waits_for and self.restoring:
            log.warning("the restore does not go on", reason=for_what)
        self._waits_for = for_what

    def __repr__(self) -> str:
        state = "catching up" if self._catching_up else "rejoining" if self._rejoining else "well"
        return f"<Restorer {self._relationship.name} {self._side.value} {state}>"
