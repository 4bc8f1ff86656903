"""A running stack as a test sees it: its entities, what both databases hold and both directions show, named moments."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from tally.local.ask import Answer, ask
from tally.local.stack import LocalStack

DEADLINE_S = 2.0
"""The services' default."""

GRACE_S = 0.5
RECOVERY_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 15.0
PATIENCE_S = 10.0
_NUMBERS = itertools.count(1)


class Stage:
    """Asks the services and looks into their databases."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack
        self.gateway = stack.urls["gateway"]
        self._conference: str | None = None

    # -- entities

    def author(self, full_name: str = "Alan Turing") -> str:
        return self._made("author", "/author", {"full_name": full_name})

    def event(self, capacity: int | None = None) -> str:
        if self._conference is None:
            self._conference = self._made("conference", "/conference", {"acronym": "SWAT"})
        body = {"conference_id": self._conference, "seq": next(_NUMBERS), "capacity": capacity}
        return self._made("conference", "/event", body)

    def authors(self, count: int) -> list[str]:
        """Many at once, straight into the database."""
        sql = f"INSERT INTO author (id, full_name) SELECT gen_random_uuid(), 'A' FROM generate_series(1, {count:d})"
        return self.stack.postgres.execute(f"{sql} RETURNING id;", "author")

    def _made(self, service: str, path: str, body: dict[str, Any]) -> str:
        answer = ask("POST", self.stack.urls[service] + path, body)
        assert answer.status == 201, answer.says()
        return str(answer.body["id"])

    # -- attendances

    def ask(self, method: str, path: str, *, gateway: str | None = None) -> Answer:
        return ask(method, (gateway or self.gateway) + path, timeout_s=PATIENCE_S)

    def create(self, event: str, author: str, *, gateway: str | None = None) -> Answer:
        return self.ask("POST", pair(event, author), gateway=gateway)

    def cancel(self, event: str, author: str, *, gateway: str | None = None) -> Answer:
        return self.ask("DELETE", pair(event, author), gateway=gateway)

    def created(self, event: str, author: str) -> str:
        """The operation of a create that must succeed."""
        answer = self.create(event, author)
        assert answer.status == 201, answer.says()
        return str(answer.body["operation"])

    def shown(self, event: str, author: str) -> tuple[list[str], list[str]]:
        """The pair's operations as each direction shows them, by event and by author; both must be complete."""
        found = []
        for path, items, other in (
            (f"/event/{event}/attendance?limit=500", "attendees", author),
            (f"/author/{author}/attendance?limit=500", "events", event),
        ):
            answer = self.ask("GET", path)
            assert answer.status == 200, answer.says()
            assert answer.body["complete"], answer.body
            found.append([item["operation"] for item in answer.body[items] if item["id"] == other])
        return found[0], found[1]

    # -- databases

    def live(self, event: str, author: str) -> dict[str, list[str]]:
        """The pair's live operations in each database."""
        sql = f"SELECT op FROM attendance_half WHERE st = 'L' AND event = '{UUID(event)}' AND author = '{UUID(author)}'"
        return {service: self.stack.postgres.execute(sql, service) for service in ("author", "conference")}

    def seats(self, event: str) -> tuple[int, int]:
        """Seats taken, and live halves, of an event in the conference database."""
        taken = f"SELECT taken FROM attendance_seat WHERE event = '{UUID(event)}'"
        live = f"SELECT count(*) FROM attendance_half WHERE st = 'L' AND event = '{UUID(event)}'"
        [row] = self.stack.postgres.execute(f"SELECT ({taken}), ({live})", "conference")
        first, second = row.split("|")
        return int(first), int(second)

    # -- named moments

    def next_settlement(self) -> None:
        """Return when the settled mark has passed this moment, and no cancel is left to forward."""
        now_ms = time.time_ns() // 1_000_000
        waiting = "SELECT count(*) FROM attendance_half WHERE st = 'C'"

        def settled() -> bool:
            [mark] = self.stack.postgres.execute("SELECT settled FROM attendance_mark", "conference")
            left = [self.stack.postgres.execute(waiting, service) for service in ("author", "conference")]
            return int(mark) >= now_ms and left == [["0"], ["0"]]

        until(settled, "the next settlement", SETTLE_TIMEOUT_S)

    def recovered(self, *, gateway: str | None = None) -> None:
        """Return when the gateway reaches both services again: its breakers try only now and then."""
        event, author = self.event(), self.author()

        def works() -> bool:
            answers = [
                self.create(event, author, gateway=gateway),
                self.ask("GET", f"/event/{event}/attendance", gateway=gateway),
            ]
            return all(answer.status in (200, 201) for answer in answers) and bool(answers[1].body["complete"])

        until(works, "the gateway reaches both services", RECOVERY_TIMEOUT_S)

    # -- faults, put right again

    @contextmanager
    def stopped(self, service: str) -> Iterator[None]:
        self.stack.stop_service(service)
        try:
            yield
        finally:
            self.stack.start_service(service)

    @contextmanager
    def paused(self, service: str) -> Iterator[None]:
        self.stack.pause(service)
        try:
            yield
        finally:
            self.stack.resume(service)

    def terminate(self, service: str) -> None:
        """SIGTERM, without waiting."""
        self.stack.kill(service, signal.SIGTERM)


def pair(event: str, author: str) -> str:
    return f"/event/{event}/attendance/{author}"


def until(holds: Callable[[], bool], what: str, timeout_s: float) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.05)


def at_once(calls: list[Callable[[], Answer]]) -> tuple[ThreadPoolExecutor, list[Future[tuple[Answer, float]]]]:
    """Begin them all now; each future gives the answer and how long it took. Shut the executor down afterwards."""

    def timed(call: Callable[[], Answer]) -> tuple[Answer, float]:
        began_s = time.monotonic()
        return call(), time.monotonic() - began_s

    pool = ThreadPoolExecutor(len(calls))
    return pool, [pool.submit(timed, call) for call in calls]
