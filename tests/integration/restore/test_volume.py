"""An old copy of a volume: the cluster, its timeline and its databases are the same, only time went back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tally.local.operator import Operator
from tally.local.postgres import EmbeddedPostgres
from tally.local.stack import LocalStack
from tests.integration.restore import backups
from tests.integration.restore.stacks import READY_S, running, starting
from tests.integration.statements.stage import RECOVERY_TIMEOUT_S, SETTLE_TIMEOUT_S, Stage, until
from tests.support.folders import scratch_folder


@pytest.fixture
def volume() -> Iterator[EmbeddedPostgres]:
    """The author service's own cluster."""
    with scratch_folder() as folder:
        server = EmbeddedPostgres(folder / "author", durable=False)
        try:
            server.start()
            server.create_database("author", "author")
            yield server
        finally:
            server.destroy()


@pytest.fixture
def own(volume: EmbeddedPostgres) -> Iterator[LocalStack]:
    with running(TALLY_LOCAL_AUTHOR_DATABASE_URL=volume.dsn("author", "author")) as stack:
        yield stack


def test_marks_that_are_behind_the_peer_s_and_events_that_nobody_told(
    own: LocalStack, volume: EmbeddedPostgres, folder: Path
) -> None:
    stage = Stage(own)
    event, before = stage.event(), stage.author("Before")
    kept = stage.created(event, before)
    _settled(own, volume)
    own.stop_service("author")
    volume.stop()
    backup = backups.copy_volume(volume, folder / "volume")
    volume.start()
    own.start_service("author", timeout_s=READY_S)
    assert _reasons(own) == [], "a server that was only stopped is not restored"

    after = stage.author("After")
    made = stage.created(event, after)
    _settled(own, volume)
    _back(own, volume, backup)
    own.start_service("author", timeout_s=READY_S)
    assert "epochs are settled up to" in _reasons(own)[0]
    stage.recovered()
    assert stage.shown(event, after) == ([made], [made])

    # Once more, and nobody is there to compare marks with.
    _settled(own, volume)
    own.stop_service("conference")
    _back(own, volume, backup)
    with starting(own, "author", "waiting for the conference service"):
        own.start_service("conference", timeout_s=READY_S)
    assert "the stream knows author." in _reasons(own)[0]
    stage.recovered()
    assert stage.shown(event, after) == ([made], [made])
    assert stage.shown(event, before) == ([kept], [kept])


def test_a_volume_that_is_exchanged_under_a_running_service(
    own: LocalStack, volume: EmbeddedPostgres, folder: Path
) -> None:
    stage = Stage(own)
    event = stage.event()
    volume.stop()
    backup = backups.copy_volume(volume, folder / "volume")
    volume.start()
    stage.recovered()
    author = stage.author()
    made = stage.created(event, author)
    _settled(own, volume)
    volume.stop()
    backups.put_volume_back(volume, backup)
    volume.start()
    until(lambda: "log was written up to" in " ".join(_reasons(own)), "the restore", RECOVERY_TIMEOUT_S)
    own.wait_ready("author")
    stage.recovered()
    assert stage.shown(event, author) == ([made], [made])


def _settled(stack: LocalStack, volume: EmbeddedPostgres) -> None:
    """What was done until now is settled, and the author service has told of it."""
    now_ms = time.time_ns() // 1_000_000

    def done() -> bool:
        [mark] = stack.postgres.execute("SELECT settled FROM attendance_mark", "conference")
        [waiting] = volume.execute("SELECT count(*) FROM outbox WHERE published_at IS NULL", "author")
        return int(mark) >= now_ms and waiting == "0"

    until(done, "the next settlement", 4 * SETTLE_TIMEOUT_S)


def _back(stack: LocalStack, volume: EmbeddedPostgres, backup: Path) -> None:
    stack.stop_service("author")
    volume.stop()
    backups.put_volume_back(volume, backup)
    volume.start()


def _reasons(stack: LocalStack) -> list[str]:
    """Why it was restored, the latest time first, once it is whole."""
    operator = Operator(stack.places, stack.folder)
    until(lambda: not operator.restore("author")["restoring"], "the restore has ended", RECOVERY_TIMEOUT_S)
    status = operator.restore("author")
    return [str(item["reason"]) for item in status["items"]]
