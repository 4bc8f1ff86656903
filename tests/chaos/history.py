"""A recorded history: a file of JSON lines, appended while things happen, readable after the harness crashed.

The first line is a `Header`; then, as they happen, one of the records below. A request is two lines, `Invoked` before
it is sent and `Completed` when its outcome is known, so a request in flight when the harness died is in the file too.
What was observed at the end is in the same file: `Database` and `Settlement`, and reads like any others.

Times: `at_ns` is the harness's monotonic clock, and orders everything. `wall_ms` is its Unix time, and is only compared
with the time inside of operation ids, because the services run on the same machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import UUID

import msgspec
from msgspec import Struct

from tests.chaos.cast import ATTENDING, CASTS, Cast

FORMAT = 1


class Kind(StrEnum):
    """What a client asks for."""

    MAKE_AUTHOR = "make-author"
    MAKE_EVENT = "make-event"
    DELETE_AUTHOR = "delete-author"
    DELETE_EVENT = "delete-event"
    CREATE = "create"
    CANCEL = "cancel"
    GET = "get"
    LIST_BY_EVENT = "list-by-event"
    LIST_BY_AUTHOR = "list-by-author"
    STATUS = "status"
    INTRUDE = "intrude"
    """An internal message with a token that is wrong; `operation` may be one that lives."""
    GARBLE = "garble"
    """What is no request: nonsense, or a body of two lengths."""


NO_USE = frozenset({Kind.INTRUDE, Kind.GARBLE})
"""What nobody sends who wants to use the services: neither a write nor a read."""

GUESTS = frozenset({"crowd", "strangers", "flood"})
"""Faults by which a service has many or bad visitors, and nothing else: it owes all others their answers."""


class Trouble(StrEnum):
    """Why a request has no answer. `UNSENT` is proof that nobody saw it: the connection was refused."""

    UNSENT = "unsent"
    LOST = "lost"
    TIMEOUT = "timeout"


class Header(Struct, frozen=True, tag="header"):
    """How the run was made: enough to start it again."""

    seed: int
    scenario: str
    seconds: float
    clients: int
    request_deadline_s: float
    environment: Mapping[str, str] = {}
    versions: Mapping[str, str] = {}
    started_at: str = ""
    relationship: str = ATTENDING.relationship.name
    format: int = FORMAT


class Invoked(Struct, frozen=True, tag="invoked", omit_defaults=True):
    """A request is about to be sent. `author` and `event` are what it names; `capacity` is of an event to make."""

    id: int
    at_ns: int
    wall_ms: int
    client: int
    target: str
    kind: Kind
    author: UUID | None = None
    event: UUID | None = None
    operation: UUID | None = None
    capacity: int | None = None


class Completed(Struct, frozen=True, tag="completed", omit_defaults=True):
    """What came of it: an answer with its essentials, or the trouble.

    `shown` is what a list showed, as (operation, id of the other end); `state` is an operation's. `made` is the id that
    a create of an entity answered. `complete` is false where a service was missing: such a list promises nothing, and
    such a state can't tell a refused operation from one that was ended.
    """

    id: int
    at_ns: int
    status: int | None = None
    media: str | None = None
    code: str | None = None
    operation: UUID | None = None
    shown: Sequence[tuple[UUID, UUID]] | None = None
    complete: bool = True
    state: str | None = None
    made: UUID | None = None
    trouble: Trouble | None = None
    reason: str | None = None


class Fault(Struct, frozen=True, tag="fault"):
    """The nemesis begins something. It is over at the `Healed` of the same number."""

    id: int
    at_ns: int
    fault: str
    target: str


class Healed(Struct, frozen=True, tag="healed"):
    """The target runs again and says that it is ready."""

    id: int
    at_ns: int


class Stall(Struct, frozen=True, tag="stall"):
    """Who only looks at the clock was not scheduled for this long: the harness itself, or on a cluster a pod that does
    nothing else. What was measured until `at_ns` may be late by as much."""

    at_ns: int
    lasted_ns: int


class Phase(Struct, frozen=True, tag="phase"):
    """A named moment of the run: preloaded, load-ended, healed, observed."""

    name: str
    at_ns: int
    wall_ms: int


class Settlement(Struct, frozen=True, tag="settlement"):
    """Whether the right side's settled mark passed `until_ms`, and no cancel was left to forward, in time."""

    at_ns: int
    reached: bool
    until_ms: int
    settled_ms: int
    waited_s: float


class Half(Struct, frozen=True, array_like=True):
    """A row of a database: `st` is L, V or C."""

    op: UUID
    st: str
    author: UUID | None
    event: UUID | None
    why: str | None = None


class Seat(Struct, frozen=True, array_like=True):
    event: UUID
    capacity: int
    taken: int


class Told(Struct, frozen=True, array_like=True):
    """An event of the outbox: `type` is confirmed or cancelled."""

    seq: int
    type: str
    op: UUID
    author: UUID | None = None
    event: UUID | None = None


class Database(Struct, frozen=True, tag="database"):
    """All that one service's database holds of the relationship, read in one transaction at the end."""

    service: str
    at_ns: int
    closed_ms: int
    settled_ms: int
    entities: Sequence[UUID] = ()
    halves: Sequence[Half] = ()
    seats: Sequence[Seat] = ()
    outbox: Sequence[Told] = ()


class Copied(Struct, frozen=True, tag="copied"):
    """How a copy compares with its owner's `rows`: what it lacks, and what it has too much."""

    at_ns: int
    copy: str
    rows: int
    missing: Sequence[str] = ()
    surplus: Sequence[str] = ()


class Mailed(Struct, frozen=True, tag="mailed"):
    """Operations that were confirmed, and (operation, Message-ID) of the mails that say so."""

    at_ns: int
    confirmed: Sequence[str] = ()
    mails: Sequence[tuple[str, str]] = ()


Record = Header | Invoked | Completed | Fault | Healed | Stall | Phase | Settlement | Database | Copied | Mailed

_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


class Recorder:
    """Appends records to a file, each in one write that leaves this process at once. Any thread may write."""

    def __init__(self, path: Path, header: Header) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o644)
        self._next = 0
        self._lock = threading.Lock()
        self.write(header)

    def number(self) -> int:
        """A number for a request or a fault, given once."""
        with self._lock:
            self._next += 1
            return self._next

    def write(self, record: Record) -> None:
        os.write(self._file, _ENCODER.encode(record) + b"\n")

    def phase(self, name: str) -> None:
        self.write(Phase(name, now_ns(), wall_ms()))

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what came of it; `end` is None for one that was in flight when the recording ended."""

    start: Invoked
    end: Completed | None

    def __repr__(self) -> str:
        came = "no end" if self.end is None else self.end.code or self.end.trouble or self.end.status
        return f"<{self.start.kind} #{self.start.id} → {came}>"


@dataclass(slots=True)
class History:
    """A file, read. `requests` are in the order in which they began."""

    header: Header
    requests: list[Request] = field(default_factory=list)
    faults: list[tuple[Fault, Healed | None]] = field(default_factory=list)
    stalls: list[Stall] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    settlements: list[Settlement] = field(default_factory=list)
    databases: dict[str, Database] = field(default_factory=dict)
    copies: list[Copied] = field(default_factory=list)
    mails: list[Mailed] = field(default_factory=list)

    @property
    def cast(self) -> Cast:
        return CASTS[self.header.relationship]

    def phase(self, name: str) -> Phase | None:
        return next((phase for phase in self.phases if phase.name == name), None)


class NotAHistory(Exception):
    """The file is not one, or is of another format."""


def read(path: Path) -> History:
    """The history in a file. A last line that was cut short is left out, as the crash left it."""
    return assembled(list(_records(path)))


def assembled(records: Sequence[Record]) -> History:
    """Records in the order of the file as a history."""
    if not records or not isinstance(records[0], Header):
        raise NotAHistory("the first line is not a header")
    if records[0].format != FORMAT:
        raise NotAHistory(f"its format is {records[0].format}, and this reads {FORMAT}")
    if records[0].relationship not in CASTS:
        raise NotAHistory(f"it is of the relationship {records[0].relationship}, which is not known here")
    history = History(records[0])
    ends = {record.id: record for record in records if isinstance(record, Completed)}
    healed = {record.id: record for record in records if isinstance(record, Healed)}
    for record in records:
        match record:
            case Invoked():
                history.requests.append(Request(record, ends.get(record.id)))
            case Fault():
                history.faults.append((record, healed.get(record.id)))
            case Stall():
                history.stalls.append(record)
            case Phase():
                history.phases.append(record)
            case Settlement():
                history.settlements.append(record)
            case Copied():
                history.copies.append(record)
            case Mailed():
                history.mails.append(record)
            case Database():
                history.databases[record.service] = record  # the latest look counts
            case _:
                pass
    return history


def _records(path: Path) -> Iterator[Record]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield _DECODER.decode(line)
            except msgspec.DecodeError as error:
                raise NotAHistory(f"line {number} is not a record: {error}") from None


def now_ns() -> int:
    return time.monotonic_ns()


def wall_ms() -> int:
    return time.time_ns() // 1_000_000
