"""What a history proves about each operation: when it certainly lived, and who may have ended it.

Theory. An operation is live at both sides during one interval of real time: it is born once, dies at most once, and
what is dead stays dead. Nobody saw the interval itself. A client saw *sights* (an answer that shows the operation, from
a request that began and ended at known times: somewhere in between it was live) and *absences* (an answer that should
have shown it and did not). So it certainly lived from the earliest end of a sight to the latest beginning of one.

It lived on after that until somebody may have ended it: a cancel of its pair, or the deletion of its author or event,
that was done or has an unknown outcome. A cancel names a pair, but ends the one operation that it finds live at
both sides while it runs, so it can't end an operation that is born after it stopped looking; one that was done can't
have ended an operation that was sighted later. What has no answer may act for ever.

Reads ask both sides at slightly different moments. That changes nothing: throughout a certain life both halves are
live, so whatever asks within it must find both.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import accumulate
from uuid import UUID

from tests.chaos.history import Completed, History, Kind, Request, Trouble

EVER = 1 << 62
"""Later than anything that was recorded, in nanoseconds."""

GRACE_NS = 500_000_000
"""What a request may take beyond its deadline."""

Pair = tuple[UUID, UUID]
"""Author and event."""

_MAKES = {Kind.MAKE_AUTHOR, Kind.MAKE_EVENT}
_DELETES = {Kind.DELETE_AUTHOR, Kind.DELETE_EVENT}
WRITES = {Kind.CREATE, Kind.CANCEL} | _MAKES | _DELETES
_LISTS = {Kind.LIST_BY_AUTHOR, Kind.LIST_BY_EVENT}


class Fate(StrEnum):
    """What became of a write, as its caller was told."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"
    UNSENT = "unsent"


def fate(end: Completed | None) -> Fate:
    """2xx is done; 4xx and 503 are refusals, and promise that nothing was recorded; all else is unknown."""
    if end is None:
        return Fate.UNKNOWN
    if end.trouble is not None:
        return Fate.UNSENT if end.trouble is Trouble.UNSENT else Fate.UNKNOWN
    assert end.status is not None
    if 200 <= end.status < 300:
        return Fate.DONE
    return Fate.REFUSED if 400 <= end.status < 500 or end.status == 503 else Fate.UNKNOWN


@dataclass(frozen=True, slots=True)
class Span:
    """Something that is known of some moment between two times."""

    from_ns: int
    to_ns: int
    request: Request | None

    def __repr__(self) -> str:
        return f"{self.request!r} [{self.from_ns / 1e9:.3f} … {self.to_ns / 1e9:.3f} s]"


@dataclass(frozen=True, slots=True)
class Absence(Span):
    """Nothing of an author, an event or a pair is live at both sides, but what is `shown`."""

    shown: frozenset[UUID]


@dataclass(frozen=True, slots=True)
class Ending(Span):
    """Ends what it finds between `from_ns` and `finds_until_ns`, by `to_ns` (EVER if nobody knows)."""

    finds_until_ns: int
    certain: bool


class Enders:
    """The endings of one pair or entity, arranged so that a question about thousands of lives takes no time."""

    def __init__(self, endings: Iterable[Ending]) -> None:
        endings = list(endings)
        self.certain = sorted((ending for ending in endings if ending.certain), key=lambda ending: ending.from_ns)
        self.certain_from = [ending.from_ns for ending in self.certain]
        self._done = _Earliest((ending.to_ns, ending.from_ns) for ending in endings if ending.certain)
        self._unknown = _Earliest((ending.finds_until_ns, ending.from_ns) for ending in endings if not ending.certain)

    def earliest_ns(self, life: Life) -> int:
        """From when on one of them may have ended it.

        One that is done has not ended what was sighted after it. One whose outcome is unknown may act for ever, but
        only on what was born before it stopped looking.
        """
        return min(self._done.from_key(life.last_ns), self._unknown.from_key(life.born_ns))

    def within(self, from_ns: int, to_ns: int) -> Iterator[Ending]:
        """Those that were done, and began and ended between two times."""
        for ending in self.certain[bisect_right(self.certain_from, from_ns) :]:
            if ending.from_ns >= to_ns:
                return
            if ending.to_ns < to_ns:
                yield ending


class _Earliest:
    """Of (key, time) pairs: the earliest time among keys that are not below a given one."""

    def __init__(self, pairs: Iterable[tuple[int, int]]) -> None:
        ordered = sorted(pairs)
        self._keys = [key for key, _ in ordered]
        self._times = list(accumulate((time for _, time in reversed(ordered)), min))[::-1]

    def from_key(self, key: int) -> int:
        i = bisect_left(self._keys, key)
        return self._times[i] if i < len(self._times) else EVER


@dataclass(slots=True)
class Life:
    """One operation that was sighted. `creator` is the create that answered or may have made it."""

    op: UUID
    author: UUID
    event: UUID
    sights: list[Span] = field(default_factory=list)
    creator: Request | None = None
    born_ns: int = -EVER
    first_ns: int = EVER
    """It was born by then: the earliest end of a sight."""
    last_ns: int = -EVER
    """It lived then or later: the latest beginning of a sight."""
    until_ns: int = -EVER
    """It certainly lived from `first_ns` until then."""

    @property
    def pair(self) -> Pair:
        return self.author, self.event

    def sighted(self, span: Span) -> None:
        self.sights.append(span)
        self.first_ns = min(self.first_ns, span.to_ns)
        self.last_ns = max(self.last_ns, span.from_ns)

    def contains(self, span: Span) -> bool:
        """Whether the span lies wholly within what it certainly lived."""
        return self.first_ns < span.from_ns and span.to_ns < self.until_ns

    def __repr__(self) -> str:
        return f"operation {self.op} (author {self.author}, event {self.event}, created by {self.creator!r})"


@dataclass(slots=True)
class Lives:
    """A history, digested."""

    history: History
    lives: dict[UUID, Life] = field(default_factory=dict)
    creates: dict[Pair, list[Request]] = field(default_factory=lambda: defaultdict(list))
    endings: dict[UUID | Pair, list[Ending]] = field(default_factory=lambda: defaultdict(list))
    """Cancels by pair, deletes by author or event."""
    enders: dict[UUID | Pair, Enders] = field(default_factory=dict)
    absences: dict[UUID | Pair, list[Absence]] = field(default_factory=lambda: defaultdict(list))
    makers: dict[UUID, Request] = field(default_factory=dict)
    """The request that made an author or an event."""
    named: dict[UUID, Request] = field(default_factory=dict)
    """The create that named an operation as its own: done (201), or unknown."""
    conflicting: list[str] = field(default_factory=list)
    """Operations that two creates or two pairs claim."""

    def of_pair(self) -> dict[Pair, list[Life]]:
        """The lives of each pair, in the order in which they were first seen."""
        pairs: dict[Pair, list[Life]] = defaultdict(list)
        for life in sorted(self.lives.values(), key=lambda life: life.first_ns):
            pairs[life.pair].append(life)
        return pairs

    def enders_of(self, life: Life) -> list[Enders]:
        """What could have ended it, whenever."""
        return [self.enders[key] for key in (life.pair, life.author, life.event) if key in self.enders]


def lives_of(history: History) -> Lives:
    """Digest a history."""
    found = Lives(history)
    for request in history.requests:
        _note_write(found, request)
    for request in history.requests:
        _note_sights(found, request)
        _note_absences(found, request)
    for request in history.requests:
        _note_status(found, request)
    found.enders = {key: Enders(endings) for key, endings in found.endings.items()}
    for life in found.lives.values():
        _date(found, life)
    for absences in found.absences.values():
        absences.sort(key=lambda absence: absence.from_ns)
    return found


# -- writes


def _note_write(found: Lives, request: Request) -> None:
    start, end = request.start, request.end
    what = fate(end)
    match start.kind:
        case Kind.CREATE:
            assert start.author is not None and start.event is not None
            found.creates[start.author, start.event].append(request)
            named = what is Fate.UNKNOWN or (end is not None and end.status == 201)
            if end is not None and end.operation is not None and named:
                if end.operation in found.named:
                    found.conflicting.append(f"{end.operation}: {found.named[end.operation]!r} and {request!r}")
                found.named[end.operation] = request
        case Kind.CANCEL if what in (Fate.DONE, Fate.UNKNOWN):
            assert start.author is not None and start.event is not None
            found.endings[start.author, start.event].append(_ending(found.history, request, what))
        case Kind.DELETE_AUTHOR | Kind.DELETE_EVENT if what in (Fate.DONE, Fate.UNKNOWN):
            entity = start.author or start.event
            assert entity is not None
            found.endings[entity].append(_ending(found.history, request, what))
        case Kind.MAKE_AUTHOR | Kind.MAKE_EVENT if end is not None and end.made is not None:
            found.makers[end.made] = request


def _ending(history: History, request: Request, what: Fate) -> Ending:
    end_ns = EVER if request.end is None else request.end.at_ns
    if what is Fate.DONE:
        return Ending(request.start.at_ns, end_ns, request, end_ns, certain=True)
    finds_until_ns = looks_until_ns(history, request) if request.start.kind is Kind.CANCEL else EVER
    return Ending(request.start.at_ns, EVER, request, finds_until_ns, certain=False)


def looks_until_ns(history: History, request: Request) -> int:
    """Until when the gateway may still begin something for a request: it may sit in a paused gateway's socket."""
    if request.end is None:
        return EVER
    if request.end.status is not None:
        return request.end.at_ns
    span_ns = int(history.header.request_deadline_s * 1e9) + GRACE_NS
    until_ns = request.end.at_ns + span_ns
    for fault, healed in history.faults:
        if fault.target == request.start.target and fault.at_ns <= until_ns:
            until_ns = max(until_ns, EVER if healed is None else healed.at_ns + span_ns)
    return until_ns


# -- sights and absences


def _note_sights(found: Lives, request: Request) -> None:
    start, end = request.start, request.end
    if end is None:
        return
    span = Span(start.at_ns, end.at_ns, request)
    match start.kind:
        case Kind.CREATE | Kind.GET if fate(end) is Fate.DONE and end.operation is not None:
            _sight(found, end.operation, start.author, start.event, span)
        case Kind.LIST_BY_AUTHOR if end.shown is not None and end.complete:
            for op, event in end.shown:
                _sight(found, op, start.author, event, span)
        case Kind.LIST_BY_EVENT if end.shown is not None and end.complete:
            for op, author in end.shown:
                _sight(found, op, author, start.event, span)
        case _:
            pass


def _note_status(found: Lives, request: Request) -> None:
    """An operation that is told to be done is a sight of it. Whose it is, others must have said."""
    op, end = request.start.operation, request.end
    if op is None or end is None or end.state != "done":
        return
    span = Span(request.start.at_ns, end.at_ns, request)
    if op in found.lives:
        found.lives[op].sighted(span)
    elif op in found.named:
        _sight(found, op, found.named[op].start.author, found.named[op].start.event, span)


def _sight(found: Lives, op: UUID, author: UUID | None, event: UUID | None, span: Span) -> None:
    assert author is not None and event is not None
    life = found.lives.get(op)
    if life is None:
        life = found.lives[op] = Life(op, author, event, creator=found.named.get(op))
    if life.pair != (author, event):
        found.conflicting.append(f"{op}: of author {author} and event {event} in {span!r}, and of {life!r}")
        return
    life.sighted(span)


def _note_absences(found: Lives, request: Request) -> None:
    start, end = request.start, request.end
    if end is None or end.status is None:
        return
    shown = frozenset(op for op, _ in end.shown or ())
    absence = Absence(start.at_ns, end.at_ns, request, shown)
    if start.kind in _LISTS and end.status == 200 and end.complete:
        found.absences[_named(start.author or start.event)].append(absence)
    elif start.kind in (Kind.GET, Kind.CANCEL) and end.code == f"{found.history.cast.relationship.name}-not-found":
        assert start.author is not None and start.event is not None
        found.absences[start.author, start.event].append(absence)
    elif end.status == 404 and start.kind not in _MAKES:
        for entity in missing(found.history, request):
            found.absences[entity].append(absence)


def missing(history: History, request: Request) -> Iterable[UUID]:
    """The entities that an answer says don't exist."""
    author, event = history.cast.author.entity, history.cast.event.entity
    code = None if request.end is None else request.end.code
    if code in (f"{author}-not-found", "both-not-found") and request.start.author is not None:
        yield request.start.author
    if code in (f"{event}-not-found", "both-not-found") and request.start.event is not None:
        yield request.start.event


def _named(entity: UUID | None) -> UUID:
    assert entity is not None
    return entity


# -- dates


def _date(found: Lives, life: Life) -> None:
    """When it was born at the earliest, and from when on anybody may have ended it."""
    makers = [life.creator] if life.creator is not None else unnamed(found.creates[life.pair])
    life.born_ns = min((maker.start.at_ns for maker in makers), default=-EVER)
    life.until_ns = max(life.last_ns, min((ender.earliest_ns(life) for ender in found.enders_of(life)), default=EVER))


def unnamed(creates: Iterable[Request]) -> list[Request]:
    """Creates that may have made an operation that nobody was told of."""
    return [
        create
        for create in creates
        if fate(create.end) is Fate.UNKNOWN and (create.end is None or create.end.operation is None)
    ]
