"""What the clients do: create, cancel, create again, read in both directions, ask what became of it, delete entities.

A few pairs are hot, so that clients meet; a few events have few seats, so that they run out. Entities that are deleted
are replaced by new ones. What a client does next depends on the seed and on what it was answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from random import Random
from uuid import UUID

from tests.chaos.cast import ATTENDING, Cast
from tests.chaos.client import Client, Wanted
from tests.chaos.history import Completed, Kind, Trouble

CAPACITIES = (None, None, 3, None, None, 8, None, 1, None, 20)
"""Of the events, in turn."""

HOT_PAIRS = 8
HOT_SHARE = 0.3

WEIGHTS = {
    Kind.CREATE: 40,
    Kind.CANCEL: 24,
    Kind.GET: 8,
    Kind.LIST_BY_EVENT: 10,
    Kind.LIST_BY_AUTHOR: 10,
    Kind.STATUS: 6,
    Kind.DELETE_AUTHOR: 0.4,
    Kind.DELETE_EVENT: 0.2,
}

THINK_MAX_S = 0.02
REFUSED_PAUSE_MAX_S = 0.3
"""Who is down refuses at once; nobody should spin on that."""

RETRY_PAUSE_S = 0.5


@dataclass
class Town:
    """Who there is to speak of. `unknown` are operations whose outcome somebody wants to know."""

    random: Random
    parent: UUID | None = None
    """What the events belong to."""
    cast: Cast = ATTENDING
    authors: list[UUID] = field(default_factory=list)
    events: list[UUID] = field(default_factory=list)
    unknown: list[UUID] = field(default_factory=list)
    recent: deque[UUID] = field(default_factory=lambda: deque(maxlen=100))
    done: int = 0
    """Creates and cancels that were done so far."""

    def __post_init__(self) -> None:
        self._seq = count(1)

    def pair(self) -> tuple[UUID, UUID]:
        """Mostly any, often a hot one: hot are places in the lists, whoever stands there."""
        if self.random.random() < HOT_SHARE:
            hot = self.random.randrange(HOT_PAIRS)
            return self.authors[hot % len(self.authors)], self.events[hot * 3 % len(self.events)]
        return self.random.choice(self.authors), self.random.choice(self.events)

    def operation(self) -> UUID | None:
        if self.unknown and self.random.random() < 0.7:
            return self.random.choice(self.unknown[-100:])
        return self.random.choice(self.recent) if self.recent else None

    def new_author(self) -> Wanted:
        name = f"{self.random.getrandbits(32):08x}"
        return Wanted(Kind.MAKE_AUTHOR, body=self.cast.left(name))

    def new_event(self, capacity: int | None) -> Wanted:
        if self.cast.event.seats is None:
            capacity = None
        body = self.cast.right(next(self._seq), capacity, self.parent)
        return Wanted(Kind.MAKE_EVENT, capacity=capacity, body=body)

    def noted(self, wanted: Wanted, done: Completed) -> None:
        """Count what is done, and remember operations that are worth a question later."""
        if wanted.kind in (Kind.CREATE, Kind.CANCEL) and done.status in (200, 201, 204):
            self.done += 1
        if wanted.kind is Kind.CREATE and done.operation is not None:
            if done.status == 504:
                self.unknown.append(done.operation)
            else:
                self.recent.append(done.operation)


async def preload(town: Town, client: Client, *, authors: int, events: int) -> None:
    """The first authors and events, over the public API, while nothing is wrong."""
    for _ in range(authors):
        town.authors.append(await _make(client, town.new_author))
    for number in range(events):
        town.events.append(await _make(client, partial(town.new_event, CAPACITIES[number % len(CAPACITIES)])))


async def _make(client: Client, wanted: Callable[[], Wanted]) -> UUID:
    while True:
        made = (await client.ask(wanted())).made
        if made is not None:
            return made
        await asyncio.sleep(RETRY_PAUSE_S)


async def keep_asking(
    town: Town, client: Client, random: Random, until_s: float, think_max_s: float = THINK_MAX_S
) -> None:
    """One client, until the loop's time is `until_s`; what it has begun then, it finishes."""
    time = asyncio.get_running_loop().time
    while time() < until_s:
        done = await _one(town, client, random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0])
        refused = done is not None and (done.trouble is Trouble.UNSENT or done.status == 503)
        pause_s = REFUSED_PAUSE_MAX_S if refused else think_max_s
        await asyncio.sleep(random.uniform(0, pause_s))


async def _one(town: Town, client: Client, kind: Kind) -> Completed | None:
    author, event = town.pair()
    match kind:
        case Kind.DELETE_AUTHOR:
            return await _replace(client, Wanted(kind, author), town.authors, author, town.new_author)
        case Kind.DELETE_EVENT:
            new = partial(town.new_event, town.random.choice(CAPACITIES))
            return await _replace(client, Wanted(kind, event=event), town.events, event, new)
        case Kind.STATUS:
            operation = town.operation()
            return None if operation is None else await client.ask(Wanted(kind, operation=operation))
        case Kind.LIST_BY_AUTHOR:
            return await client.ask(Wanted(kind, author))
        case Kind.LIST_BY_EVENT:
            return await client.ask(Wanted(kind, event=event))
        case _:
            wanted = Wanted(kind, author, event)
            done = await client.ask(wanted)
            town.noted(wanted, done)
            return done


async def _replace(
    client: Client, delete: Wanted, among: list[UUID], entity: UUID, new: Callable[[], Wanted]
) -> Completed:
    """Delete an entity, and put a new one in its place; the deleted one is still spoken of until then."""
    done = await client.ask(delete)
    newcomer = await _make(client, new)
    if entity in among:
        among[among.index(entity)] = newcomer
    return done
