"""A plan: everything that a run does on purpose. It is drawn from a seed, printed with a failure, and shrunk.

Times are virtual seconds since the run began. A plan says *what* may go wrong; which message a storm really
hits is a matter of chance. :class:`Hit` is a fault of one message: what a storm becomes when a failure is shrunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from tally.protocol.relationship import Side

# -- what clients do


@dataclass(frozen=True, slots=True)
class Create:
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Cancel:
    left: int
    right: int


@dataclass(frozen=True, slots=True)
class Read:
    """Read all pages of one entity."""

    by: Side
    entity: int
    limit: int


@dataclass(frozen=True, slots=True)
class Ask:
    """GET operation: the ``back``-th last that any client was told of."""

    back: int


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete an entity at its owner."""

    side: Side
    entity: int


@dataclass(frozen=True, slots=True)
class Make:
    """Create an entity at its owner (with the same id as before, if it was deleted)."""

    side: Side
    entity: int


@dataclass(frozen=True, slots=True)
class Resize:
    """Change the seats of a right entity, but not below those taken."""

    right: int
    seats: int


Action = Create | Cancel | Read | Ask | Delete | Make | Resize


@dataclass(frozen=True, slots=True)
class Step:
    """One action of one client, ``pause_s`` after its last; the client hangs up after ``give_up_s``."""

    client: int
    pause_s: float
    gateway: int
    action: Action
    give_up_s: float | None = None


# -- what goes wrong


class Trouble(StrEnum):
    """What can happen to one message."""

    LOST = "the request is lost"
    MUTE = "the reply is lost"
    REPEATED = "the request arrives again later"
    LATE = "the request is late"
    SLOW = "the reply is late"
    REFUSED = "the connection is refused"
    RESET = "the connection is reset before the request arrives"
    BROKEN = "the connection is reset before the reply arrives"
    GARBLED = "the reply is cut short"
    ROLLED_BACK = "the database fails before the commit"
    COMMITTED = "the database fails after the commit"
    SENDER_DIES = "the sender dies when it has sent the request"
    DIES_BEFORE = "the receiver dies before it acts"
    DIES_AFTER = "the receiver dies when it has acted, before it replies"


@dataclass(frozen=True, slots=True)
class Storm:
    """Messages sent in a while meet ``trouble`` with a probability. None: any source, target, message."""

    trouble: Trouble
    start_s: float
    end_s: float
    probability: float
    amount_s: float
    source: str | None = None
    target: str | None = None
    message: str | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """The ``number``-th ``message`` from ``source`` to ``target`` meets ``trouble``."""

    trouble: Trouble
    source: str
    target: str
    message: str
    number: int
    amount_s: float


@dataclass(frozen=True, slots=True)
class Crash:
    """A process dies and is started again. ``gently``: it is told to stop (its tasks are cancelled) and given 0.2 s."""

    host: str
    at_s: float
    down_s: float
    gently: bool


@dataclass(frozen=True, slots=True)
class Jump:
    """A host's wall clock jumps."""

    host: str
    at_s: float
    by_ms: int


@dataclass(frozen=True, slots=True)
class OpenCircuit:
    """A host's breaker for a peer is open: it sends nothing, and knows beforehand that it won't."""

    host: str
    target: str
    start_s: float
    end_s: float


Fault = Storm | Hit | Crash | Jump | OpenCircuit


# -- the whole


@dataclass(frozen=True, slots=True)
class Settings:
    """What the run is about."""

    seed: int
    relationship: str
    gateways: int
    seats: tuple[int | None, ...]  # of each right entity
    lefts: int
    request_deadline_s: float
    attempt_timeout_s: float
    lag_s: float
    period_s: float
    latency_s: float
    skew_ms: tuple[tuple[str, int], ...]  # per host
    heal_at_s: float
    void_keep_ms: int  # product constants, made small so that what they bound happens
    list_max: int
    narrow: bool  # gateways carry two items at a time, and let two more wait

    @property
    def rights(self) -> int:
        return len(self.seats)


@dataclass(frozen=True, slots=True)
class Plan:
    settings: Settings
    steps: tuple[Step, ...]
    faults: tuple[Fault, ...]

    @property
    def entries(self) -> tuple[Step | Fault, ...]:
        """What shrinking may take away."""
        return self.steps + self.faults

    def only(self, entries: tuple[Step | Fault, ...]) -> Plan:
        steps = tuple(entry for entry in entries if isinstance(entry, Step))
        faults = tuple(entry for entry in entries if not isinstance(entry, Step))
        return replace(self, steps=steps, faults=faults)

    def __str__(self) -> str:
        lines = [str(self.settings)]
        lines += [f"  {entry}" for entry in self.entries]
        return "\n".join(lines)
