"""From a create's answer to its mail's acceptance, at a steady rate of creates.

An open loop: each create begins at its time, whether or not those before it are answered, so that a slow stack can't
slow down what it is measured with. The inbox keeps each mail in a file, which it renames into place right before it
tells the sender that it was accepted: the file's change time is that moment, to a few milliseconds (the folder's fsync,
and the kernel's coarse clock). It keeps the newest thousand only, so we look while they come.
"""

import asyncio
import os
import re
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID, uuid4

import aiohttp
import msgspec

from tally.halves.owner import OwnerSettings
from tests.bench import measure
from tests.bench.databases import Database
from tests.bench.events.figures import Mailed, mail_waits, quantiles
from tests.bench.events.ground import HARNESS, Ground

AUTHORS = 1_000
EVENTS = 50
ALLOWANCE_S = 3.0
# How long the last mails may take before they count as missing.
LAST_MAX_S = 60.0
LOOK_S = 0.2
CONNECTIONS_MAX = 256
OPERATION = re.compile(rb"^X-Tally-Operation: *([0-9a-f-]{36})", re.IGNORECASE | re.MULTILINE)
HEAD_BYTES = 4096


def settlement_lag_s() -> float:
    """The age at which an attendance is settled, as the services have it by default."""
    [default] = [one.default for one in msgspec.structs.fields(OwnerSettings) if one.name == "settle_lag_s"]
    return float(default)


def pair(n: int) -> tuple[int, int]:
    """The numbers of the nth create's event and author; never one pair twice, no author twice in a thousand."""
    if n >= AUTHORS * EVENTS:
        raise ValueError(f"all {AUTHORS * EVENTS} pairs are used up: run shorter")
    author = n % AUTHORS
    return (n // AUTHORS + author) % EVENTS, author


@dataclass
class People:
    """Authors with addresses, and events for them."""

    authors: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(AUTHORS)])
    events: list[UUID] = field(default_factory=lambda: [uuid4() for _ in range(EVENTS)])

    def load(self, author: Database, conference: Database) -> None:
        people = [(id, f"Author Number {n}", f"author{n}@example.org") for n, id in enumerate(self.authors)]
        author.load("author", ("id", "full_name", "email"), people)
        one = uuid4()
        conference.load("conference", ("id", "acronym"), [(one, "BENCH")])
        events = [(id, one, n + 1) for n, id in enumerate(self.events)]
        conference.load("event", ("id", "conference_id", "seq"), events)

    def path(self, n: int) -> str:
        event, author = pair(n)
        return f"/event/{self.events[event]}/attendance/{self.authors[author]}"


class Arrivals:
    """The mails that came into the inbox's folder: when each operation's first was accepted, in Unix seconds."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[str] = set()
        self.accepted: dict[str, float] = {}

    def look(self) -> None:
        for entry in os.scandir(self._folder):
            if entry.name.endswith(".eml") and entry.name not in self._seen:
                self._seen.add(entry.name)
                with suppress(FileNotFoundError):  # the inbox has just dropped it, for a newer one
                    self._note(entry)

    def _note(self, entry: os.DirEntry[str]) -> None:
        with open(entry.path, "rb") as mail:
            named = OPERATION.search(mail.read(HEAD_BYTES))
        if named is not None:
            self.accepted.setdefault(named[1].decode(), entry.stat().st_ctime)

    async def keep_looking(self) -> None:
        """For ever."""
        while True:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(LOOK_S)


class Creates:
    """An open loop of creates: `answered` says when each operation was, in Unix seconds."""

    def __init__(self, url: str, people: People, rate: float) -> None:
        self._url = url
        self._people = people
        self._rate = rate
        self.answered: dict[str, float] = {}
        self.errors: Counter[str] = Counter()
        self.behind_s = 0.0

    async def run(self, first: int, count: int) -> None:
        """From the `first` on, so many; returns when all are answered."""
        connector = aiohttp.TCPConnector(limit=CONNECTIONS_MAX)
        async with aiohttp.ClientSession(self._url, connector=connector) as session, asyncio.TaskGroup() as creating:
            began_s = time.monotonic()
            for n in range(count):
                due_s = began_s + n / self._rate
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                self.behind_s = max(self.behind_s, time.monotonic() - due_s)
                creating.create_task(self._create(session, self._people.path(first + n)))

    async def _create(self, session: aiohttp.ClientSession, path: str) -> None:
        try:
            async with session.post(path) as answer:
                body = await answer.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            self.errors[type(error).__name__] += 1
            return
        if answer.status == 201:
            self.answered[body["operation"]] = time.time()
        else:
            self.errors[str(answer.status)] += 1


async def measured(ground: Ground, *, rate: float, seconds: float, warm_up_s: float) -> Mailed:
    people = People()
    dsn = ground.stack.dsn
    await asyncio.to_thread(people.load, Database(dsn("author")), Database(dsn("conference")))
    await ground.caught_up()
    url, arrivals = ground.stack.urls["gateway"], Arrivals(ground.stack.folder / "mail")
    looking = asyncio.create_task(arrivals.keep_looking())
    try:
        warm = round(rate * warm_up_s)
        await Creates(url, people, rate).run(0, warm)
        creates = Creates(url, people, rate)
        before = measure.used(ground.services())
        await creates.run(warm, round(rate * seconds))
        await all_came(creates.answered, arrivals)
        after = measure.used(ground.services())
    finally:
        looking.cancel()
    return mailed(creates, arrivals.accepted, rate, after.since(before) if before and after else None)


async def all_came(answered: Mapping[str, float], arrivals: Arrivals) -> None:
    """Return when each create's mail was seen, or it has had its time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LAST_MAX_S):
            while not answered.keys() <= arrivals.accepted.keys():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)


def mailed(creates: Creates, accepted: Mapping[str, float], rate: float, used: measure.Used | None) -> Mailed:
    waits = mail_waits(creates.answered, accepted)
    p50_s, p99_s = quantiles(waits)
    each = 1e6 / max(len(creates.answered), 1)
    return Mailed(
        rate=rate,
        asked=len(creates.answered) + creates.errors.total(),
        created=len(creates.answered),
        errors=dict(creates.errors),
        behind_s=creates.behind_s,
        mailed=len(waits),
        p50_s=p50_s,
        p99_s=p99_s,
        longest_s=waits[-1] if waits else 0.0,
        limit_s=settlement_lag_s() + ALLOWANCE_S,
        cpu_us={name: each * s for name, s in used.tree_s.items() if name != HARNESS} if used else {},
    )
