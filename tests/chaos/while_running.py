"""Invariants of what clients saw while it ran: what was answered stays true, in real time.

`lives` has the theory of what a history proves.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from uuid import UUID

from tests.chaos.history import History, Kind, Request
from tests.chaos.lives import (
    EVER,
    Absence,
    Fate,
    Life,
    Lives,
    Span,
    fate,
    looks_until_ns,
    missing,
    unnamed,
)
from tests.chaos.verdict import Found, Verdict, invariant, proof

SLACK_MS = 100
"""How far the time inside of an operation's id may be from what the harness's clock said when it was made."""


@invariant("what was acknowledged or seen stays readable, without a flicker, until somebody may have ended it")
def acknowledged_stays(lives: Lives, verdict: Verdict) -> Found:
    starts = {key: [absence.from_ns for absence in absences] for key, absences in lives.absences.items()}
    for life in lives.lives.values():
        for key in (life.author, life.event, life.pair):
            for absence in _within(lives.absences.get(key, ()), starts.get(key, ()), life):
                verdict.checked += 1
                if life.op not in absence.shown:
                    yield f"{life!r} lived ({proof(life)}) and {absence!r} does not show it"


def _within(absences: Sequence[Absence], starts: Sequence[int], life: Life) -> Iterator[Absence]:
    for absence in absences[bisect_right(starts, life.first_ns) :] if absences else ():
        if absence.from_ns >= life.until_ns:
            return
        if life.contains(absence):
            yield absence


@invariant("what was refused is absent: every operation ever seen belongs to a create that succeeded or is unknown")
def refused_stays_absent(lives: Lives, verdict: Verdict) -> Found:
    anonymous: dict[tuple[UUID, UUID], list[tuple[UUID, str]]] = defaultdict(list)
    for op, pair, where in _seen(lives):
        verdict.checked += 1
        if op not in lives.named:
            anonymous[pair].append((op, where))
    for pair, ops in anonymous.items():
        for op, where in _unmatched(lives, pair, ops):
            refused = [create for create in lives.creates[pair] if fate(create.end) is Fate.REFUSED]
            yield f"operation {op} of pair {pair} was seen ({where}), but no create explains it; refused were {refused}"
    yield from _refused_by_name(lives)


def _seen(lives: Lives) -> Iterator[tuple[UUID, tuple[UUID, UUID], str]]:
    """Every operation that was visible anywhere, once."""
    seen: set[UUID] = set()
    for life in lives.lives.values():
        seen.add(life.op)
        yield life.op, life.pair, repr(life.sights[0])
    for database in lives.history.databases.values():
        for half in database.halves:
            if half.st == "L" and half.op not in seen and half.author and half.event:
                seen.add(half.op)
                yield half.op, (half.author, half.event), f"live in the {database.service} database"
        for told in database.outbox:
            if told.op not in seen and told.author and told.event:
                seen.add(told.op)
                yield told.op, (told.author, told.event), f"{told.type} in the outbox"


def _unmatched(lives: Lives, pair: tuple[UUID, UUID], ops: list[tuple[UUID, str]]) -> Iterator[tuple[UUID, str]]:
    """Operations without a create of an unknown outcome whose time fits, each create used once."""
    windows = sorted(
        (_wall_window(lives.history, create) for create in unnamed(lives.creates[pair])), key=lambda window: window[1]
    )
    for op, where in sorted(ops):
        time_ms = op.int >> 80
        fitting = next((window for window in windows if window[0] <= time_ms <= window[1]), None)
        if fitting is None:
            yield op, where
        else:
            windows.remove(fitting)


def _wall_window(history: History, create: Request) -> tuple[float, float]:
    took_ns = looks_until_ns(history, create) - create.start.at_ns
    return create.start.wall_ms - SLACK_MS, create.start.wall_ms + took_ns / 1e6 + SLACK_MS


def _refused_by_name(lives: Lives) -> Found:
    """Where a refusal names its operation, or the operation's own address says that it never was."""
    for request in lives.history.requests:
        if (op := _denied(request)) is not None and (life := lives.lives.get(op)) is not None:
            yield f"{life!r} was seen by {life.sights[0]!r}, but {request!r} says that it never was"


def _denied(request: Request) -> UUID | None:
    end = request.end
    if end is None:
        return None
    if request.start.kind is Kind.CREATE and fate(end) is Fate.REFUSED:
        return end.operation
    if request.start.kind is Kind.STATUS and end.state == "refused" and end.complete:
        return request.start.operation
    return None


@invariant("what a cancel or a delete has ended, or is told to be dead, is never seen again")
def ended_stays_ended(lives: Lives, verdict: Verdict) -> Found:
    for life in lives.lives.values():
        verdict.checked += 1
        if life.pair in lives.enders:
            for cancel in lives.enders[life.pair].within(life.first_ns, life.last_ns):
                yield f"{life!r} lived on ({proof(life)}) after {cancel!r} found and ended it"
        for entity in (life.author, life.event):
            if entity in lives.enders:
                for delete in lives.enders[entity].within(-EVER, life.last_ns):
                    yield f"{life!r} was seen ({proof(life)}) after {delete!r}"
    for request in lives.history.requests:
        end, op = request.end, request.start.operation
        if end is not None and end.state in ("refused", "cancelled", "gone") and op is not None and op in lives.lives:
            verdict.checked += 1
            if end.at_ns < lives.lives[op].last_ns:
                yield f"{lives.lives[op]!r} was seen ({proof(lives.lives[op])}) after {request!r} said {end.state}"


@invariant("no two operations of one pair live at once, and none belongs to two creates or pairs")
def one_operation_per_pair(lives: Lives, verdict: Verdict) -> Found:
    yield from lives.conflicting
    for of_pair in lives.of_pair().values():
        sights = sorted(((sight.from_ns, sight, life) for life in of_pair for sight in life.sights), key=itemgetter(0))
        starts = [from_ns for from_ns, _, _ in sights]
        for one in of_pair:
            verdict.checked += 1
            for from_ns, sight, other in sights[bisect_right(starts, one.first_ns) :]:
                if from_ns >= one.until_ns:
                    break
                if other is not one and one.contains(sight):
                    yield f"{one!r} lived ({proof(one)}) while {other!r} was seen by {sight!r}"
                    break
        for one, other in pairwise(of_pair):
            if max(one.first_ns, other.first_ns) < min(one.last_ns, other.last_ns):
                yield f"{one!r} ({proof(one)}) and {other!r} ({proof(other)}) lived at once"
    for request in lives.history.requests:
        if request.end is not None and request.end.shown:
            verdict.checked += 1
            for other_end, times in Counter(id for _, id in request.end.shown).items():
                if times > 1:
                    yield f"{request!r} shows {other_end} {times} times"


@invariant("never more lived at once than an event has seats")
def seats_while_running(lives: Lives, verdict: Verdict) -> Found:
    capacity = {id: maker.start.capacity for id, maker in lives.makers.items() if maker.start.capacity is not None}
    by_event: dict[UUID, list[Life]] = defaultdict(list)
    for life in lives.lives.values():
        if life.event in capacity and life.first_ns < life.until_ns:
            by_event[life.event].append(life)
    for event, of_event in by_event.items():
        verdict.checked += 1
        changes = sorted([(life.first_ns, 1) for life in of_event] + [(life.until_ns, -1) for life in of_event])
        taken = most = 0
        for _, change in changes:
            taken += change
            most = max(most, taken)
        if most > capacity[event]:
            yield f"event {event} has {capacity[event]} seats, and {most} operations certainly lived at once"


@invariant("every refusal was true: what it says is missing was, and it says nothing else of what lived meanwhile")
def refusals_are_true(lives: Lives, verdict: Verdict) -> Found:
    by_pair = lives.of_pair()
    full = f"{lives.history.cast.event.entity}-full"
    for request in lives.history.requests:
        end = request.end
        if end is None or end.status is None:
            continue
        for entity in missing(lives.history, request):
            verdict.checked += 1
            if _certainly_exists(lives, entity, request):
                yield f"{request!r} says that {entity} does not exist, but it was made and not deleted"
        if end.code == full and request.start.event in lives.makers:
            verdict.checked += 1
            if lives.makers[request.start.event].start.capacity is None:
                yield f"{request!r} says that event {request.start.event} is full, but it has no capacity"
        if request.start.kind is Kind.CREATE and request.start.author and request.start.event:
            span = Span(request.start.at_ns, end.at_ns, request)
            of_pair = by_pair.get((request.start.author, request.start.event), [])
            # Of those born before it the last: others were dead by then, or `one_operation_per_pair` tells.
            i = bisect_left(of_pair, span.from_ns, key=lambda life: life.first_ns) - 1
            if i >= 0 and of_pair[i].contains(span):
                verdict.checked += 1
                if not (fate(end) is Fate.UNKNOWN or end.status == 503 or end.operation == of_pair[i].op):
                    yield f"{of_pair[i]!r} lived ({proof(of_pair[i])}), but {span!r} did not say that it is there"


def _certainly_exists(lives: Lives, entity: UUID, request: Request) -> bool:
    maker = lives.makers.get(entity)
    assert request.end is not None
    if maker is None or maker.end is None or maker.end.at_ns >= request.start.at_ns:
        return False
    return all(request.end.at_ns < delete.from_ns for delete in lives.endings.get(entity, ()))
