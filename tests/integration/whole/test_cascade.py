"""An author with a thousand attendances is deleted while others go on."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID

import pytest

from tally.local.ask import Answer, ask
from tests.integration.statements.stage import Stage, pair, until

pytestmark = pytest.mark.chaos

MANY = 1_000
CLIENTS = 16
PATIENCE_S = 60.0


class Load:
    """Others who create and cancel meanwhile; what they were answered."""

    def __init__(self, stage: Stage, event: str, authors: list[str]) -> None:
        self._stage, self._event, self._authors = stage, event, authors
        self._over = threading.Event()
        self.answers: list[int] = []
        self._threads = [threading.Thread(target=self._go_on, args=(author,)) for author in authors]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exit: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _go_on(self, author: str) -> None:
        while not self._over.is_set():
            for do in (self._stage.create, self._stage.cancel):
                self.answers.append(do(self._event, author).status)


def test_an_author_of_a_thousand_attendances_is_deleted_under_load(stage: Stage) -> None:
    author, others = stage.author("Paul Erdos"), stage.authors(4)
    events = _events(stage, MANY)
    with ThreadPoolExecutor(CLIENTS) as pool:
        assert {answer.status for answer in pool.map(lambda event: stage.create(event, author), events)} == {201}
    until(lambda: _live_in_directory(stage, author) == MANY, "the directory knows all attendances", PATIENCE_S)

    with Load(stage, stage.event(), others) as load:
        until(lambda: len(load.answers) > 20, "there is load", PATIENCE_S)
        began_s = time.monotonic()
        deleted = ask("DELETE", f"{stage.stack.urls['author']}/author/{author}?cascade=true", timeout_s=PATIENCE_S)
        took_s = time.monotonic() - began_s
        assert deleted.status == 204, deleted.says()
        # From the moment of the answer: neither the pair, nor either list.
        with ThreadPoolExecutor(CLIENTS) as pool:
            seen = list(pool.map(lambda event: _read(stage, event, author), events[:200]))
        assert seen == [(404, [])] * len(seen)
        assert stage.ask("GET", f"/author/{author}/attendance").status == 404
        until(lambda: _cancels_to_forward(stage, author) == 0, "the other side has heard of each", PATIENCE_S)
    assert set(load.answers) <= {201, 204}, "nobody else noticed"
    print(f"deleted in {took_s:.3f} s, beside {len(load.answers)} requests of others")

    stage.next_settlement()
    assert stage.stack.postgres.execute(_OPEN, "conference") == ["0"], "seats are freed"
    assert stage.stack.postgres.execute(_TAKEN, "conference") == ["0"]
    until(lambda: _live_in_directory(stage, author) == 0, "the directory has followed", PATIENCE_S)
    kept = f"SELECT count(*) FROM shadow_author WHERE id = '{UUID(author)}'"
    until(lambda: stage.stack.postgres.execute(kept, "conference") == ["0"], "the shadow copy is gone", PATIENCE_S)
    _is_one(stage, author)


_OPEN = "SELECT count(*) FROM attendance_half WHERE st = 'L'"
_TAKEN = "SELECT coalesce(sum(taken), 0) FROM attendance_seat"


def _events(stage: Stage, count: int) -> list[str]:
    """With a seat each, so that one that is not freed shows."""
    conference = stage.event() and stage._conference
    sql = (
        "INSERT INTO event (id, conference_id, seq, capacity)"
        f" SELECT gen_random_uuid(), '{UUID(str(conference))}', 100000 + n, 1 FROM generate_series(1, {count:d}) n"
    )
    return stage.stack.postgres.execute(f"{sql} RETURNING id;", "conference")


def _read(stage: Stage, event: str, author: str) -> tuple[int, list[str]]:
    one = stage.ask("GET", pair(event, author))
    many = stage.ask("GET", f"/event/{event}/attendance")
    return one.status, [item["id"] for item in many.body["attendees"]]


def _cancels_to_forward(stage: Stage, author: str) -> int:
    sql = f"SELECT count(*) FROM attendance_half WHERE st = 'C' AND author = '{UUID(author)}'"
    return sum(int(stage.stack.postgres.execute(sql, service)[0]) for service in ("author", "conference"))


def _live_in_directory(stage: Stage, author: str) -> int:
    sql = f"SELECT count(*) FROM live.attendance WHERE live AND author = '{UUID(author)}'"
    return int(stage.stack.postgres.execute(sql, "directory")[0])


def _is_one(stage: Stage, author: str) -> None:
    """In the log of operations it is one, with all that it ended; in the audit trail, too."""
    url = stage.stack.urls["directory"]
    sql = f"SELECT id FROM saga WHERE entity = 'author' AND subject = '{UUID(author)}'"
    [saga] = stage.stack.postgres.execute(sql, "directory")

    def ended() -> bool:
        return bool(_of(url, saga).body["state"] == "completed")

    until(ended, "the cascade is completed", PATIENCE_S)
    history = {step["state"]: step for step in _of(url, saga).body["history"]}
    assert history.keys() == {"started", "completed"}
    assert len(history["completed"]["detail"]["attendances"]) == MANY


def _of(url: str, saga: str) -> Answer:
    answer = ask("GET", f"{url}/operation/{saga}")
    assert answer.status == 200, answer.says()
    return answer
