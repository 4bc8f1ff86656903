"""A gateway's deferred work on a real broker, with participants in memory whose services a test can take away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID, uuid4

from services.attendance import ATTENDANCE
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.signals import Signals
from tally.gateway.cancel import Canceller
from tally.gateway.create import Creator
from tally.gateway.deferred import Deferred
from tally.gateway.notes import Notes
from tally.gateway.observer import Unobserved
from tally.gateway.operations import Deferral, Operations, deferred_id
from tally.gateway.participants import Participants
from tally.gateway.status import StatusReader
from tally.halves.memory import MemoryStore
from tally.halves.observer import Observed
from tally.halves.participant import Local, Participant
from tally.halves.peer import Failed, Peer
from tally.halves.settler import Settler
from tally.messaging.event import Event, decode
from tally.messaging.stream import STREAM, Stream
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

PATIENCE_S = 20.0
LAG_MS = 300
CLOCK = SystemClock()


class Service(Local):
    """A participant that may be away (nothing is sent to it), busy (it refuses, and asks to be left alone for so long),
    or silent: it acts, and its answer is lost."""

    def __init__(self, participant: Participant) -> None:
        super().__init__(participant)
        self.away = False
        self.busy_s: float | None = None
        self.silent_to: set[str] = set()

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: object) -> Any:
        message = path.rsplit("/", 1)[-1]
        if self.away:
            return Failed(False, "refused")
        if self.busy_s is not None:
            return Failed(False, "service-unavailable", self.busy_s)
        answer = await super().post(peer, path, body, kind=kind, deadline=deadline)
        return Failed(True, "timeout") if message in self.silent_to else answer


async def _always() -> bool:
    return True


@dataclass
class Owners:
    """Both services: the halves outlive whatever gateway asks them."""

    stores: dict[Side, MemoryStore] = field(
        default_factory=lambda: {side: MemoryStore(ATTENDANCE, side) for side in Side}
    )
    services: dict[Side, Service] = field(init=False)

    def __post_init__(self) -> None:
        self.services = {
            side: Service(Participant(ATTENDANCE, side, store, CLOCK, lag_ms=LAG_MS))
            for side, store in self.stores.items()
        }

    @property
    def conference(self) -> Service:
        return self.services[Side.RIGHT]

    def author(self) -> UUID:
        return self._made(Side.LEFT)

    def event(self, capacity: int | None = None) -> UUID:
        event = self._made(Side.RIGHT)
        if capacity is not None:
            self.stores[Side.RIGHT].capacity[event] = capacity
        return event

    def _made(self, side: Side) -> UUID:
        id = uuid4()
        self.stores[side].entities[id] = b"{}"
        return id

    def settler(self, clock: Clock = CLOCK) -> Settler:
        """As the right side runs it, by ``clock``."""
        left, right = (Peer(ATTENDANCE, side, self.services[side]) for side in Side)
        observed = Observed(Signals("conference"), ATTENDANCE, CLOCK)
        return Settler(ATTENDANCE, left, right, clock, observed, lag_s=LAG_MS / 1000, period_s=1.0, leader=_always)

    async def settled(self) -> None:
        """Return when all that was done up to now is settled, and cancels are forwarded."""
        now_ms, settler = CLOCK.now_ms(), self.settler()
        async with asyncio.timeout(PATIENCE_S):
            while self.stores[Side.LEFT].state.closed <= now_ms:
                await settler.run_once()
                await asyncio.sleep(0.02)
            await settler.run_once()  # what the last one forwarded is dropped by this one

    def live(self, author: UUID, event: UUID) -> list[UUID]:
        """The operations that hold the pair on both sides."""
        held = [
            {op for op, half in store.rows.items() if half.status.name == "LIVE" and (half.left, half.right) == pair}
            for pair in [(author, event)]
            for store in self.stores.values()
        ]
        return sorted(set.intersection(*held))


@dataclass
class Gateway:
    """One replica."""

    stream: Stream
    operations: Operations
    notes: Notes
    deferred: Deferred
    creator: Creator
    canceller: Canceller
    status: StatusReader
    signals: Signals

    async def defer(self, author: UUID, event: UUID, *, age_s: float = 0.0) -> Deferral:
        at = datetime.fromtimestamp(CLOCK.now_ms() / 1000 - age_s, UTC)
        deferral = Deferral(deferred_id(CLOCK.now_ms(), Random().getrandbits(76)), author, event, at)
        await self.operations.defer(deferral)
        return deferral

    async def ended(self, deferral: Deferral, *, within_s: float = PATIENCE_S) -> str:
        """The state in which it ends."""
        return await self.reaches(deferral, lambda state: state != "deferred", within_s=within_s)

    async def reaches(self, deferral: Deferral, holds: Callable[[str], bool], *, within_s: float = PATIENCE_S) -> str:
        async with asyncio.timeout(within_s):
            while True:
                standing = await self.operations.standing(deferral.operation)
                if standing is not None and holds(standing.state):
                    return standing.state
                await asyncio.sleep(0.02)

    async def retried(self) -> None:
        """Return when an attempt has failed, and that was told."""
        async with asyncio.timeout(PATIENCE_S):
            while not any(event.change == "retried" for event in await self.told()):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def told(self) -> list[Event]:
        """Everything in the stream about operations, in its order."""
        context = await self.stream.jetstream()
        info = await context.stream_info(STREAM)
        found = []
        for sequence in range(info.state.first_seq or 1, info.state.last_seq + 1):
            message = await context.get_msg(STREAM, sequence)
            found.append(decode(message.data or b""))
        return [event for event in found if event.entity == "operation"]

    def deadline(self) -> Deadline:
        return Deadline.after(1.0, CLOCK.monotonic_s())


@asynccontextmanager
async def gateway(
    url: str, owners: Owners, *, max_age_s: float = 3600.0, ack_wait_s: float = 15.0
) -> AsyncIterator[Gateway]:
    """A replica, connected; its agent runs only if the test lets it."""
    signals = Signals("gateway")
    peers = {side: Peer(ATTENDANCE, side, service) for side, service in owners.services.items()}
    participants = Participants(ATTENDANCE, peers, Unobserved())
    random = Random()
    creator = Creator(participants, CLOCK, random, Unobserved())
    status = StatusReader(participants, CLOCK)
    async with Stream(url, "gateway", signals) as stream:
        operations = Operations(stream, ATTENDANCE, "gateway", CLOCK)
        notes = Notes(stream, kept_s=max_age_s)
        deferred = Deferred(
            stream,
            operations,
            notes,
            creator,
            status,
            ATTENDANCE,
            signals,
            CLOCK,
            random,
            max_age_s=max_age_s,
            attempt_s=0.4,
            ack_wait_s=ack_wait_s,
        )
        await connected(stream)
        canceller = Canceller(participants, CLOCK, Unobserved())
        yield Gateway(stream, operations, notes, deferred, creator, canceller, status, signals)
        await participants.close()


async def connected(stream: Stream) -> None:
    await until(lambda: stream.connected)


async def until(holds: Callable[[], bool]) -> None:
    """Return when it holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@asynccontextmanager
async def working(*gateways: Gateway) -> AsyncIterator[None]:
    """Their agents run for the block."""
    tasks = [asyncio.create_task(one.deferred.run()) for one in gateways]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
