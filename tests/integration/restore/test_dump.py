"""A dump is restored over a database that has lived on: what was acknowledged meanwhile is there again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tally.local.ask import ask
from tally.local.operator import Operator
from tally.local.stack import LocalStack
from tests.integration.restore import backups
from tests.integration.restore.drill import Drill
from tests.integration.restore.stacks import READY_S, starting
from tests.integration.statements.stage import until

OPERATIONS = 240
#: Of the report: nothing in it was not acknowledged, so nothing may be in it.
LOSSES = ("entity-lost", "entity-conflict", "operation-lost", "overbooked")


def report(stack: LocalStack, service: str) -> dict[str, Any]:
    status = Operator(stack.places, stack.folder).restore(service)
    assert not status["restoring"]
    return dict(status["items"][0])


def restore(stack: LocalStack, service: str, dump: Path) -> dict[str, Any]:
    """Stop the service, restore, start it; what it reports."""
    stack.stop_service(service)
    backups.restore(stack.postgres, service, dump)
    stack.start_service(service, timeout_s=READY_S)
    return report(stack, service)


def drill(stack: LocalStack, folder: Path, operations: int) -> None:
    """Statement 5: backup, many operations, restore one database; then the same for the other one."""
    drill = Drill(stack)
    drill.prepare()
    drill.work(operations // 4)
    for service in ("author", "conference"):
        drill.settled()
        dump = backups.dump(stack.postgres, service, folder / f"{service}.dump")
        drill.work(operations)
        drill.settled()
        told = restore(stack, service, dump)
        assert "it lived at" in told["reason"]
        assert told["counts"]["entity-recovered"] > 0
        assert told["counts"]["operation-copied"] > 0
        assert [loss for loss in told["losses"] if loss["kind"] in LOSSES] == []
        drill.stage.recovered()
        assert drill.differences() == []
        drill.settled()
        assert drill.differences() == []
        drill.converged()
        # And it works on.
        drill.work(operations // 10)
        drill.settled()
        assert drill.differences() == []


def test_each_database_is_restored_from_an_old_dump(stack: LocalStack, folder: Path) -> None:
    drill(stack, folder, OPERATIONS)


@pytest.mark.chaos
def test_each_database_is_restored_from_an_old_dump_a_thousand_operations_later(
    stack: LocalStack, folder: Path
) -> None:
    drill(stack, folder, 1000)


def test_what_the_stream_never_heard_of_is_lost_and_reported(stack: LocalStack, folder: Path) -> None:
    """The broker is away when the database is lost: the authors made meanwhile are gone, and all they did ends."""
    drill = Drill(stack)
    drill.prepare(authors=2, events=2)
    event = next(iter(drill.known.events))
    kept = drill.stage.created(event, next(iter(drill.known.authors)))
    drill.settled()
    dump = backups.dump(stack.postgres, "author", folder / "author.dump")
    stack.stop_service("nats")
    lost = drill.stage.author()
    operation = drill.stage.created(event, lost)
    drill.stage.next_settlement()

    stack.stop_service("author")
    backups.restore(stack.postgres, "author", dump)
    with starting(stack, "author", "restored from a backup, and waiting for the stream"):
        answer = ask("GET", f"{stack.urls['author']}/author/{lost}")
        assert (answer.status, answer.body["code"]) == (503, "service-unavailable")
        answer = ask("POST", f"{stack.urls['author']}/author", {"full_name": "Too Early"})
        assert (answer.status, answer.body["code"]) == (503, "service-unavailable")
        assert drill.stage.create(event, lost).status == 503
        stack.start_service("nats", timeout_s=READY_S)

    told = report(stack, "author")
    losses = {(loss["kind"], loss["subject"]) for loss in told["losses"]}
    assert losses == {("entity-lost", lost), ("operation-lost", operation)}
    drill.stage.recovered()
    drill.settled()
    assert drill.stage.live(event, lost) == {"author": [], "conference": []}
    assert drill.stage.shown(event, next(iter(drill.known.authors))) == ([kept], [kept])


def test_an_empty_database_comes_back_from_the_stream_and_the_peer(stack: LocalStack) -> None:
    drill = Drill(stack, seed=3)
    drill.prepare(authors=6, events=4)
    drill.work(48)
    limited = drill.stage.event(capacity=2)
    drill.known.events[limited] = ""
    author = next(iter(drill.known.authors))
    drill.stage.created(limited, author)
    drill.known.pairs.add((limited, author))
    drill.settled()
    stack.stop_service("conference")
    stack.postgres.execute("DROP DATABASE conference WITH (FORCE)")
    stack.postgres.create_database("conference", "conference")
    migrate = [sys.executable, "-m", "services.conference", "migrate"]
    subprocess.run(migrate, env=stack.environment("conference"), check=True, stdout=subprocess.DEVNULL)
    stack.start_service("conference", timeout_s=READY_S)
    told = report(stack, "conference")
    assert "epochs are closed up to" in told["reason"]
    assert told["losses"] == []
    drill.stage.recovered()
    drill.settled()
    assert drill.differences() == []
    assert drill.stage.seats(limited) == (1, 1)
    drill.converged()


def test_an_operator_goes_on_without_the_stream(stack: LocalStack, folder: Path) -> None:
    drill = Drill(stack)
    drill.prepare(authors=2, events=1)
    drill.settled()
    dump = backups.dump(stack.postgres, "author", folder / "author.dump")
    lost = drill.stage.author()
    drill.settled()
    stack.stop_service("nats")
    stack.stop_service("author")
    backups.restore(stack.postgres, "author", dump)
    with starting(stack, "author", "waiting for the stream"):
        Operator(stack.places, stack.folder).skip_in_restore("author", "stream")
    told = report(stack, "author")
    assert told["skipped"] == ["stream"]
    [authors] = stack.postgres.execute("SELECT count(*) FROM author", "author")
    assert told["counts"]["entity-retold"] == int(authors)
    assert stack.postgres.execute(f"SELECT count(*) FROM author WHERE id = '{lost}'", "author") == ["0"]
    stack.start_service("nats", timeout_s=READY_S)
    drill.drained("author")


def test_authors_are_served_again_before_attendance_is(stack: LocalStack, folder: Path) -> None:
    """The conference service stays away, so the author service can't rejoin: authors are served, attendance isn't."""
    drill = Drill(stack)
    drill.prepare(authors=2, events=1)
    drill.settled()
    dump = backups.dump(stack.postgres, "author", folder / "author.dump")
    newer = drill.stage.author("After The Backup")
    drill.settled()
    for service in ("author", "conference"):
        stack.stop_service(service)
    backups.restore(stack.postgres, "author", dump)
    with starting(stack, "author", "waiting for the conference service"):
        answer = ask("GET", f"{stack.urls['author']}/author/{newer}")
        assert (answer.status, answer.body["full_name"]) == (200, "After The Backup")
        answer = drill.stage.create(next(iter(drill.known.events)), newer)
        assert (answer.status, answer.body["code"]) == (503, "service-unavailable")
        stack.start_service("conference", timeout_s=READY_S)
    drill.stage.recovered()
    drill.stage.created(next(iter(drill.known.events)), newer)


def test_a_new_life_of_an_entity_wins_at_those_who_keep_copies(stack: LocalStack, folder: Path) -> None:
    drill = Drill(stack)
    author = drill.stage.author("Before")
    drill.settled()
    dump = backups.dump(stack.postgres, "author", folder / "author.dump")
    stack.stop_service("nats")
    for name in ("Lost", "Lost too", "Lost as well"):
        drill.done("PATCH", f"{stack.urls['author']}/author/{author}", {"full_name": name}, {200})
    stack.stop_service("author")
    backups.restore(stack.postgres, "author", dump)
    stack.start_service("nats", timeout_s=READY_S)
    stack.start_service("author", timeout_s=READY_S)
    drill.done("PATCH", f"{stack.urls['author']}/author/{author}", {"full_name": "After"}, {200})

    def copied() -> bool:
        sql = f"SELECT full_name FROM shadow_author WHERE id = '{author}'"
        return stack.postgres.execute(sql, "conference") == ["After"]

    until(copied, "the conference service's copy of the author", 20)
