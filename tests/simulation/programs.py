"""The programs that run on the hosts: the product's own objects, wired as the services wire them.

Only what a program is made of is different: its transport is a wire of the simulated network, its clock is a
simulated one, and who counts is the history.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from typing import Any
from unittest.mock import patch
from uuid import UUID

from tally.gateway.cancel import Canceller
from tally.gateway.create import Creator
from tally.gateway.observer import Unobserved
from tally.gateway.participants import Participants
from tally.gateway.read import Reader
from tally.gateway.status import StatusReader
from tally.halves import settler as settler_module
from tally.halves.peer import Peer, Transport
from tally.halves.settler import Settler
from tally.protocol.relationship import Relationship, Side
from tests.simulation.clocks import SkewedClock
from tests.simulation.database import DatabaseFailed
from tests.simulation.history import History, Property
from tests.simulation.ledger import DRAWN
from tests.simulation.plan import Settings
from tests.simulation.processes import REQUEST, Process


class TellingRandom(Random):
    """A gateway's randomness, which tells for which request it drew the bits of an operation."""

    def __init__(self, seed: str, drawn: dict[int, int]) -> None:
        super().__init__(seed)
        self._drawn = drawn

    def getrandbits(self, k: int) -> int:
        bits = super().getrandbits(k)
        if (request := REQUEST.get()) is not None:
            self._drawn[bits & DRAWN] = request
        return bits


class Counting(Unobserved):
    """A gateway's observer."""

    def __init__(self, history: History) -> None:
        self._history = history

    def compensated(self, operation: str, reason: str, outcome: str, op: UUID) -> None:
        self._history.count(f"compensation because {reason}: {outcome}")

    def coalesced(self, message: str, service: str, size: int) -> None:
        if size > 1:
            self._history.count("batches of several items")


class Watching(Unobserved):
    """A settler's observer."""

    def __init__(self, history: History) -> None:
        self._history = history

    def settled(self, relationship: str, outcome: str, count: int) -> None:
        self._history.count(f"settler: {outcome}", count)

    def lag(self, relationship: str, seconds: float) -> None: ...

    def lone_halves(self, relationship: str, count: int) -> None: ...

    def violated(self, invariant: str) -> None:
        self._history.violate(Property.MARKS, f"the settler says: {invariant}")

    def round_ended(self, relationship: str, outcome: str) -> None:
        self._history.count(f"settler: round {outcome}")


@dataclass(slots=True)
class Gateway:
    participants: Participants
    creator: Creator
    canceller: Canceller
    reader: Reader
    status: StatusReader


def gateway(
    relationship: Relationship, wire: Transport, clock: SkewedClock, random: Random, history: History
) -> Gateway:
    observer = Counting(history)
    peers = {side: Peer(relationship, side, wire) for side in Side}
    participants = Participants(relationship, peers, observer)
    return Gateway(
        participants,
        Creator(participants, clock, random, observer),
        Canceller(participants, clock, observer),
        Reader(participants, clock, observer),
        StatusReader(participants, clock),
    )


def settler(
    process: Process,
    relationship: Relationship,
    settings: Settings,
    wire: Transport,
    clock: SkewedClock,
    history: History,
    own: Transport | None = None,
) -> Settler:
    """A settler, running; ``own`` is the way to the right side where it shares a process with it."""

    async def always() -> bool:
        return True

    program = Settler(
        relationship,
        Peer(relationship, Side.LEFT, wire, kind="settle"),
        Peer(relationship, Side.RIGHT, own or wire, kind="settle"),
        clock,
        Watching(history),
        lag_s=settings.lag_s,
        period_s=settings.period_s,
        leader=always,
    )
    process.spawn(program.run())
    return program


class _Log:
    """The settlers' log: a line becomes an entry, and an exception that they swallow is a finding."""

    def __init__(self, history: History) -> None:
        self._history = history

    def info(self, event: str, **details: Any) -> None: ...

    def warning(self, event: str, *, exc_info: bool = False, **details: Any) -> None:
        error = sys.exc_info()[1]
        if exc_info and not isinstance(error, DatabaseFailed):
            self._history.violate(Property.CLEAN, f"the settler caught {error!r}")
        self._history.note("settler", event, *(f"{name}={value}" for name, value in details.items()))


@contextmanager
def logging_to(history: History) -> Iterator[None]:
    with patch.object(settler_module, "log", _Log(history)):
        yield
