"""Two small models beside the protocol's: how events leave an outbox, and how a shadow copy follows them.

*Outbox.* Transactions each take an id when they insert their event and commit in any order; a relay polls at any
moment. Which relay rule publishes every committed event?

*Shadow copies.* An entity is created, changed, deleted and created anew; its database is restored to an older
backup once, and changes again. Its events reach a consumer in any order, and late duplicates. Under which rule
does the consumer end with what the source has?
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

# -- the outbox


class Outbox(NamedTuple):
    """Transactions are numbers. ``begun`` and ``inserted`` are in their order: of xids, and of ids."""

    begun: tuple[int, ...] = ()
    inserted: tuple[int, ...] = ()
    committed: frozenset[int] = frozenset()
    published: frozenset[int] = frozenset()
    cursor: int = 0

    def id(self, transaction: int) -> int:
        return self.inserted.index(transaction) + 1

    def xid(self, transaction: int) -> int:
        return self.begun.index(transaction)

    def publish(self, transactions: list[int], cursor: int) -> Outbox:
        return self._replace(published=self.published.union(transactions), cursor=cursor)


Poll = Callable[[Outbox], list[Outbox]]


def by_serial(outbox: Outbox) -> list[Outbox]:
    """Publish what is visible above the cursor, and move the cursor to the last id."""
    new = [t for t in outbox.committed if outbox.id(t) > outbox.cursor]
    return [outbox.publish(new, max(map(outbox.id, new)))] if new else []


def by_xid(outbox: Outbox) -> list[Outbox]:
    """Publish what is visible above the cursor and below every running transaction."""
    running = [outbox.xid(t) for t in outbox.begun if t not in outbox.committed]
    horizon = min(running, default=len(outbox.begun))
    new = [t for t in outbox.committed if outbox.cursor <= outbox.xid(t) < horizon]
    return [outbox.publish(new, max(map(outbox.xid, new)) + 1)] if new else []


def as_queue(outbox: Outbox) -> list[Outbox]:
    """Claim any visible row, publish it, mark it: there is no cursor to run ahead."""
    return [outbox.publish([t], 0) for t in sorted(outbox.committed - outbox.published)]


@dataclass(frozen=True)
class Relay:
    """``insert_locked``: the id is taken under a lock that is held until the commit."""

    poll: Poll
    insert_locked: bool = False


@dataclass(frozen=True)
class Lost:
    """A committed event that is never published, and how it came to that."""

    transactions: tuple[int, ...]
    trace: tuple[str, ...]


def relayed(relay: Relay, transactions: int = 3) -> Lost | None:
    """Explore all interleavings of ``transactions`` and the relay; the first that loses an event."""
    start = Outbox()
    todo: list[tuple[Outbox, tuple[str, ...]]] = [(start, ())]
    seen = {start}
    while todo:
        outbox, trace = todo.pop()
        steps = list(_steps(relay, outbox, range(transactions)))
        if not steps and len(outbox.published) < transactions:
            return Lost(tuple(sorted(set(range(transactions)) - outbox.published)), trace)
        for label, after in steps:
            if after not in seen:
                seen.add(after)
                todo.append((after, (*trace, label)))
    return None


def _steps(relay: Relay, outbox: Outbox, transactions: range) -> Iterator[tuple[str, Outbox]]:
    inserting = len(outbox.inserted) > len(outbox.committed)
    for t in transactions:
        if t not in outbox.begun:
            yield f"T{t} begins", outbox._replace(begun=(*outbox.begun, t))
        elif t not in outbox.inserted:
            if not (relay.insert_locked and inserting):
                yield f"T{t} takes id {len(outbox.inserted) + 1}", outbox._replace(inserted=(*outbox.inserted, t))
        elif t not in outbox.committed:
            yield f"T{t} commits", outbox._replace(committed=outbox.committed | {t})
    for after in relay.poll(outbox):
        yield f"the relay publishes {sorted(after.published - outbox.published)}", after


# -- shadow copies


class Event(NamedTuple):
    """What a source says of one entity. ``value`` None: it is deleted."""

    incarnation: int
    version: int
    value: str | None


#: A consumer's rule: what it holds (None: it has heard nothing), an event, and what it holds then. What is held
#: is the event that it came from; one with ``value`` None is a tombstone.
Consume = Callable[[Event | None, Event], Event | None]


def by_incarnation_and_version(held: Event | None, event: Event) -> Event | None:
    """The rule: the newest wins, a restored source is newer whatever its versions, and a deletion is remembered."""
    newest = held is None or (event.incarnation, event.version) > (held.incarnation, held.version)
    return event if newest else held


def by_version(held: Event | None, event: Event) -> Event | None:
    """Without incarnations: after a restore the versions begin again, and are taken for old ones."""
    return event if held is None or event.version > held.version else held


def without_tombstone(held: Event | None, event: Event) -> Event | None:
    """A deletion forgets the version, so an older event is taken for a new one."""
    return None if event.value is None else by_version(held, event)


def last_arrival(held: Event | None, event: Event) -> Event | None:
    """Whatever comes last wins."""
    return event


@dataclass(frozen=True)
class Wrong:
    """An order of arrival after which the copy differs from the source."""

    order: tuple[Event, ...]
    copy: str | None
    source: str | None


def histories(*, restored: bool) -> Iterator[tuple[list[Event], str | None]]:
    """What a source said, and what it has in the end; with a restore of each backup at each moment, or without."""
    life = [Event(0, 1, "a"), Event(0, 2, "b"), Event(0, 3, None), Event(0, 4, "c")]
    for lived in range(1, len(life) + 1):
        said = life[:lived]
        if not restored:
            yield said, said[-1].value
            continue
        for backup in range(lived + 1):
            version, value = (said[backup - 1].version, said[backup - 1].value) if backup else (0, None)
            # A restored source says again what it has; its versions go on from the backup's.
            resync = Event(1, version, value)
            yield [*said, resync], value
            yield [*said, resync, Event(1, version + 1, "z")], "z"


def followed(consume: Consume, *, restored: bool, events_max: int = 5) -> Wrong | None:
    """Try every order of arrival, with each event once more at the end; the first that ends wrong."""
    for said, value in histories(restored=restored):
        if len(said) > events_max:
            continue
        for order in permutations(said):
            for late in [(), *((event,) for event in said)]:
                copy = held_after(consume, order + late)
                if copy != value:
                    return Wrong(order + late, copy, value)
    return None


def held_after(consume: Consume, events: tuple[Event, ...]) -> str | None:
    """The value that a consumer holds after ``events``."""
    held: Event | None = None
    for event in events:
        held = consume(held, event)
    return None if held is None else held.value
