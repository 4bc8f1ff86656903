"""Invariants of the last look: everything is healed and settled, and both databases are read.

Assumes that nothing changes any more: the lists and the operations' states that count were asked for after the rows
were read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from uuid import UUID

from tests.chaos.history import Completed, Database, Half, History, Kind
from tests.chaos.lives import Fate, Lives, fate
from tests.chaos.verdict import Found, Verdict, invariant


@invariant("the last settlement came in time", at_end=True)
def settles(lives: Lives, verdict: Verdict) -> Found:
    for settlement in lives.history.settlements:
        verdict.checked += 1
        if not settlement.reached:
            behind_ms = settlement.until_ms - settlement.settled_ms
            yield f"after {settlement.waited_s:.1f} s the settled mark was {behind_ms} ms behind, or cancels were left"


@invariant("when all is healed nothing is stuck: a request is done, or refused for a reason that lasts", at_end=True)
def nothing_is_stuck(lives: Lives, verdict: Verdict) -> Found:
    healed = lives.history.phase("healed")
    for request in lives.history.requests:
        if healed is None or request.start.at_ns < healed.at_ns:
            continue
        verdict.checked += 1
        end = request.end
        if end is None or end.trouble is not None or (end.status or 0) >= 500 or end.code == "contended":
            yield f"{request!r} of {request.start}"


@invariant("nobody dies who was not killed", at_end=True)
def nobody_dies(lives: Lives, verdict: Verdict) -> Found:
    verdict.checked = len(lives.history.faults)
    for fault, _ in lives.history.faults:
        if fault.fault == "died":
            yield f"{fault.target} was found dead at {fault.at_ns / 1e9:.3f} s"


@invariant("no lone half is left: both databases hold the same operations live, and no cancel waits", at_end=True)
def no_lone_half(lives: Lives, verdict: Verdict) -> Found:
    author, conference = _databases(lives.history)
    here, there = _live(author), _live(conference)
    verdict.checked = len(here) + len(there)
    for op in here.keys() ^ there.keys():
        where = author if op in here else conference
        yield f"{(here.get(op) or there[op])!r} is live in the {where.service} database only"
    for op in here.keys() & there.keys():
        if (here[op].author, here[op].event) != (there[op].author, there[op].event):
            yield f"{here[op]!r} and {there[op]!r} are halves of different pairs"
    for database in (author, conference):
        for half in database.halves:
            if half.st == "C":
                yield f"{half!r} of the {database.service} database was never forwarded"


@invariant("no pair has two live halves in a database, and no live half lacks its entity", at_end=True)
def rows_are_sound(lives: Lives, verdict: Verdict) -> Found:
    author, conference = _databases(lives.history)
    for database in (author, conference):
        verdict.checked += len(database.halves)
        live = _live(database).values()
        for pair, times in Counter((half.author, half.event) for half in live).items():
            if times > 1:
                yield f"{pair} has {times} live halves in the {database.service} database"
        own = set(database.entities)
        for half in live:
            if (half.author if database is author else half.event) not in own:
                yield f"{half!r} of the {database.service} database is of an entity that is gone"


@invariant("both directions show exactly what both databases hold live", at_end=True)
def both_directions_agree(lives: Lives, verdict: Verdict) -> Found:
    author, conference = _databases(lives.history)
    there = _live(conference).keys()
    live = {op: half for op, half in _live(author).items() if op in there}
    for kind, entities in ((Kind.LIST_BY_AUTHOR, author.entities), (Kind.LIST_BY_EVENT, conference.entities)):
        reads = _last_reads(lives.history, kind, min(author.at_ns, conference.at_ns))
        for entity in entities:
            by_author = kind is Kind.LIST_BY_AUTHOR
            held = {op for op, half in live.items() if (half.author if by_author else half.event) == entity}
            verdict.checked += 1
            read = reads.get(entity)
            if read is None or read.shown is None or not read.complete:
                yield f"nobody could {kind} {entity} at the end"
            elif {op for op, _ in read.shown} != held:
                yield f"{kind} {entity} shows {sorted(op for op, _ in read.shown)}, and live are {sorted(held)}"


def _last_reads(history: History, kind: Kind, after_ns: int) -> dict[UUID, Completed]:
    """The last list of each entity that began after a time."""
    reads: dict[UUID, Completed] = {}
    for request in history.requests:
        entity = request.start.author or request.start.event
        if request.start.kind is kind and request.start.at_ns > after_ns and request.end is not None and entity:
            reads[entity] = request.end
    return reads


@invariant("seats taken are the live halves, and no more than there are", at_end=True)
def seats_at_the_end(lives: Lives, verdict: Verdict) -> Found:
    _, conference = _databases(lives.history)
    live = Counter(half.event for half in _live(conference).values())
    for seat in conference.seats:
        verdict.checked += 1
        if seat.taken != live[seat.event]:
            yield f"{seat!r}, but {live[seat.event]} halves are live"
        if seat.taken > seat.capacity:
            yield f"{seat!r} is overbooked"


@invariant("every operation's address tells in the end what the databases hold: done, or never", at_end=True)
def operations_are_decided(lives: Lives, verdict: Verdict) -> Found:
    author, conference = _databases(lives.history)
    here, there = _live(author), _live(conference)
    after_ns = min(author.at_ns, conference.at_ns)
    told: dict[UUID, Completed] = {}
    for request in lives.history.requests:
        if request.start.operation is not None and request.start.at_ns > after_ns and request.end is not None:
            told[request.start.operation] = request.end
    for op, end in told.items():
        verdict.checked += 1
        live = op in here and op in there
        if (end.state == "done") != live or end.state not in ("done", "refused", "cancelled", "gone"):
            yield f"operation {op} is told to be {end.state or end.code}, and is {'live' if live else 'not live'}"
    for op, create in lives.named.items():
        if fate(create.end) is Fate.UNKNOWN and op not in told:
            yield f"nobody asked what became of {op}, which {create!r} left unknown"


@invariant("the outbox confirms each operation once, exactly those that live or were then told to end", at_end=True)
def confirmed_once(lives: Lives, verdict: Verdict) -> Found:
    _, conference = _databases(lives.history)
    live = _live(conference)
    told: dict[UUID, list[str]] = defaultdict(list)
    for event in sorted(conference.outbox, key=lambda event: event.seq):
        told[event.op].append(event.type)
    for op in told.keys() | live.keys():
        if op in live and op.int >> 80 > conference.settled_ms:
            continue  # of an epoch that is still open
        verdict.checked += 1
        right = ["confirmed"] if op in live else ["confirmed", "cancelled"]
        if told.get(op, []) != right:
            yield f"operation {op} is {'live' if op in live else 'not live'}, and the outbox says {told.get(op, [])}"


def _databases(history: History) -> tuple[Database, Database]:
    """Of the left and of the right service."""
    author, conference = history.cast.owners
    return history.databases[author], history.databases[conference]


def _live(database: Database) -> dict[UUID, Half]:
    return {half.op: half for half in database.halves if half.st == "L"}


@invariant("every copy of another service's data equals its owner's", at_end=True)
def copies_follow(lives: Lives, verdict: Verdict) -> Found:
    for copied in lives.history.copies:
        verdict.checked += copied.rows
        for row in copied.missing:
            yield f"{copied.copy} lack {row}"
        for row in copied.surplus:
            yield f"{copied.copy} have {row}, which their owner has not"


@invariant("each confirmed operation is mailed once: it has one Message-ID", at_end=True)
def mailed_once(lives: Lives, verdict: Verdict) -> Found:
    for mailed in lives.history.mails:
        times = Counter(operation for operation, _ in mailed.mails)
        verdict.checked += len(mailed.confirmed)
        for operation in mailed.confirmed:
            if times[operation] != 1:
                yield f"operation {operation} was confirmed, and {times[operation]} different mails say so"
