"""A drill: clients who create, cancel, rename and delete, what they were answered, and whether that still holds.

Each client is a thread with authors of its own, so that what it was answered last is what must be. Events are shared,
and changed by the main thread only.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tally.local.ask import Answer, ask
from tally.local.stack import LocalStack
from tests.integration.statements.stage import Stage, pair, until

CLIENTS = 6
DRAINED_S = 30.0
CONVERGED_S = 60.0
PATIENCE_S = 30.0


@dataclass
class Acknowledged:
    """What was answered, and nothing else: names by id, and the pairs that exist."""

    authors: dict[str, str] = field(default_factory=dict)
    events: dict[str, str] = field(default_factory=dict)
    gone: set[str] = field(default_factory=set)
    pairs: set[tuple[str, str]] = field(default_factory=set)  # (event, author)
    operations: int = 0

    def forget(self, entity: str) -> None:
        """It was deleted, with all its attendances."""
        self.authors.pop(entity, None)
        self.events.pop(entity, None)
        self.gone.add(entity)
        self.pairs = {one for one in self.pairs if entity not in one}


class Drill:
    def __init__(self, stack: LocalStack, seed: int = 1) -> None:
        self.stack = stack
        self.stage = Stage(stack)
        self.known = Acknowledged()
        self._random = random.Random(seed)
        self._numbers = 0

    # -- what clients do

    def prepare(self, authors: int = 2 * CLIENTS, events: int = 6) -> None:
        for _ in range(authors):
            self.new_author(self.known)
        for _ in range(events):
            self.new_event()

    def new_author(self, known: Acknowledged) -> str:
        name = f"Author {random.getrandbits(40)}"
        answer = self.done("POST", self.stack.urls["author"] + "/author", {"full_name": name}, {201})
        known.authors[answer.body["id"]] = name
        return str(answer.body["id"])

    def new_event(self) -> str:
        event = self.stage.event()
        self.known.events[event] = ""
        return event

    def work(self, operations: int) -> None:
        """So many operations, by all clients at once; and some changes to events in between."""
        each = operations // (CLIENTS * 4)
        for _ in range(4):
            shares = self._shares()
            with ThreadPoolExecutor(CLIENTS) as pool:
                futures = [
                    pool.submit(self._client, share, each, self._random.getrandbits(32), list(self.known.events))
                    for share in shares
                ]
                for future in futures:
                    future.result()
            self._collect(shares)
            self._change_events()

    def _shares(self) -> list[Acknowledged]:
        shares = [Acknowledged() for _ in range(CLIENTS)]
        for number, (author, name) in enumerate(self.known.authors.items()):
            share = shares[number % CLIENTS]
            share.authors[author] = name
            share.pairs |= {one for one in self.known.pairs if one[1] == author}
        return shares

    def _collect(self, shares: list[Acknowledged]) -> None:
        self.known.authors = {author: name for share in shares for author, name in share.authors.items()}
        self.known.pairs = {one for share in shares for one in share.pairs}
        self.known.gone |= {one for share in shares for one in share.gone}
        self.known.operations += sum(share.operations for share in shares)
        for share in shares:
            share.operations = 0

    def _client(self, known: Acknowledged, operations: int, seed: int, events: list[str]) -> None:
        chance = random.Random(seed)
        for _ in range(operations):
            known.operations += 1
            what, event = chance.random(), chance.choice(events)
            author = chance.choice(list(known.authors)) if known.authors else self.new_author(known)
            if what < 0.55:
                self._create(known, event, author)
            elif what < 0.8 and known.pairs:
                self._cancel(known, *chance.choice(sorted(known.pairs)))
            elif what < 0.88:
                self.new_author(known)
            elif what < 0.95:
                self._rename(known, author)
            elif len(known.authors) > 1:
                self.done("DELETE", f"{self.stack.urls['author']}/author/{author}", None, {204})
                known.forget(author)

    def _create(self, known: Acknowledged, event: str, author: str) -> None:
        self.done("PUT", self.stack.urls["gateway"] + pair(event, author), None, {200, 201})
        known.pairs.add((event, author))

    def _cancel(self, known: Acknowledged, event: str, author: str) -> None:
        self.done("DELETE", self.stack.urls["gateway"] + pair(event, author), None, {204})
        known.pairs.discard((event, author))

    def _rename(self, known: Acknowledged, author: str) -> None:
        name = f"{known.authors[author]}."
        self.done("PATCH", f"{self.stack.urls['author']}/author/{author}", {"full_name": name}, {200})
        known.authors[author] = name

    def _change_events(self) -> None:
        """One is renamed, one gets a capacity, one goes, one comes."""
        conference, events = self.stack.urls["conference"], sorted(self.known.events)
        renamed, limited, gone = self._random.sample(events, 3)
        title = f"{self.known.events[renamed]}+"
        self.done("PATCH", f"{conference}/event/{renamed}", {"title": title}, {200})
        self.known.events[renamed] = title
        self.done("PATCH", f"{conference}/event/{limited}", {"capacity": 1000}, {200})
        self.done("DELETE", f"{conference}/event/{gone}", None, {204})
        self.known.forget(gone)
        self.new_event()

    def done(self, method: str, url: str, body: Any, statuses: set[int]) -> Answer:
        """Asked again while the answer says that this may help, as a client would. A deletion whose outcome was unknown
        may have been done."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            answer = ask(method, url, body, timeout_s=10)
            if answer.status in statuses:
                return answer
            retryable = isinstance(answer.body, dict) and answer.body.get("retryable")
            assert retryable and time.monotonic() < give_up_s, f"{method} {url}: {answer.says()}"
            if method == "DELETE":
                statuses = statuses | {404}
            time.sleep(0.2)

    # -- named moments

    def settled(self) -> None:
        """All is settled and forwarded, and told to the stream."""
        self.stage.next_settlement()
        for service in ("author", "conference"):
            self.drained(service)

    def drained(self, service: str) -> None:
        def empty() -> bool:
            sql = "SELECT count(*) FROM outbox WHERE published_at IS NULL"
            return self.stack.postgres.execute(sql, service) == ["0"]

        until(empty, f"the outbox of {service} is empty", DRAINED_S)

    def converged(self) -> None:
        """The directory shows what was answered, and the conference service's copies of the authors say so, too."""
        wrong: list[str] = []

        def equal() -> bool:
            wrong[:] = self._view_differences()
            return not wrong

        try:
            until(equal, "the directory and the copies show what the owners have", CONVERGED_S)
        except AssertionError as error:
            raise AssertionError(f"{error}: {wrong[:10]}") from None

    # -- what must hold

    def differences(self) -> list[str]:
        """Between what was answered and what both directions and both owners show."""
        wrong: list[str] = []
        self._compare_owner("author", "full_name", self.known.authors, wrong)
        self._compare_owner("event", "title", self.known.events, wrong)
        gateway = self.stack.urls["gateway"]
        shown: dict[str, set[tuple[str, str]]] = {"event": set(), "author": set()}
        for by, ids, items in (("event", self.known.events, "attendees"), ("author", self.known.authors, "events")):
            for id in ids:
                answer = ask("GET", f"{gateway}/{by}/{id}/attendance?limit=500", timeout_s=10)
                if answer.status != 200 or not answer.body["complete"] or answer.body["next"]:
                    wrong.append(f"{by} {id} is not shown: {answer.says()}")
                    continue
                others = [item["id"] for item in answer.body[items]]
                shown[by] |= {(id, other) if by == "event" else (other, id) for other in others}
        for by, pairs in shown.items():
            wrong += [f"by {by}, missing: {one}" for one in sorted(self.known.pairs - pairs)]
            wrong += [f"by {by}, too much: {one}" for one in sorted(pairs - self.known.pairs)]
        return wrong + self._seats()

    def _view_differences(self) -> list[str]:
        wrong: list[str] = []
        ask_for = "SELECT id, full_name FROM live.author WHERE shown"
        self._compare_names("author", self._rows(ask_for, "directory"), self.known.authors, wrong)
        copies = "SELECT id, full_name FROM shadow_author WHERE full_name IS NOT NULL"
        self._compare_names("author", self._rows(copies, "conference"), self.known.authors, wrong)
        ask_for = "SELECT id, coalesce(title, '') FROM live.event WHERE shown"
        self._compare_names("event", self._rows(ask_for, "directory"), self.known.events, wrong)
        live = self.stack.postgres.execute("SELECT event, author FROM live.attendance WHERE live", "directory")
        ours = self.known.authors.keys() | self.known.gone
        pairs = {(event, author) for event, author in (row.split("|") for row in live) if author in ours}
        return wrong + [f"in the directory: {one}" for one in sorted(pairs ^ self.known.pairs)]

    def _rows(self, sql: str, database: str) -> dict[str, str]:
        return dict(tuple(row.split("|", 1)) for row in self.stack.postgres.execute(sql, database))  # type: ignore[misc]

    def _compare_owner(self, entity: str, column: str, known: dict[str, str], wrong: list[str]) -> None:
        service = "author" if entity == "author" else "conference"
        self._compare_names(
            entity, self._rows(f"SELECT id, coalesce({column}, '') FROM {entity}", service), known, wrong
        )

    def _compare_names(self, entity: str, found: dict[str, str], known: dict[str, str], wrong: list[str]) -> None:
        wrong += [f"{entity} {id} {name!r} is lost" for id, name in known.items() if found.get(id) != name]
        wrong += [f"{entity} {id} is back" for id in found if id in self.known.gone]

    def _seats(self) -> list[str]:
        live = "SELECT count(*) FROM attendance_half h WHERE h.live_event = s.event"
        sql = f"SELECT event, taken, ({live}) FROM attendance_seat s WHERE taken <> ({live})"
        return [f"seats: {row}" for row in self.stack.postgres.execute(sql, "conference")]
