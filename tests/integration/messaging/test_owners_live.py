"""The owners as processes, with the stream between them: what one shows of the other while that one is stopped, and
what an operator does with a message that neither can read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

import nats
import pytest
from click.testing import CliRunner

from tally.cli import main
from tally.local.ask import ask
from tally.local.operator import Operator
from tally.local.services import SERVICES
from tally.local.stack import LocalStack, free_ports
from tests.integration.statements.stage import Stage, until
from tests.support.folders import scratch_folder

PATIENCE_S = 20.0


PROGRAMS = tuple(program for program in SERVICES if program.name in ("nats", "author", "conference", "gateway"))


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally", programs=PROGRAMS, ports=free_ports(PROGRAMS), supervise=False, durable=False
        ) as running,
    ):
        yield Stage(running)


class Fair:
    """An author who attends an event, both of which the other service has heard of."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.author = stage.author("Grace Hopper")
        self.event = stage.event()
        renamed = ask("PATCH", f"{stage.stack.urls['conference']}/event/{self.event}", {"title": "Compilers"})
        assert renamed.status == 200, renamed.says()
        self.operation = stage.created(self.event, self.author)
        until(lambda: self._kept("conference", "shadow_author", self.author, 1), "the author's name", PATIENCE_S)
        until(lambda: self._kept("author", "shadow_event", self.event, 2), "the event's title", PATIENCE_S)

    def _kept(self, service: str, table: str, id: str, version: int) -> bool:
        sql = f"SELECT version FROM {table} WHERE id = '{UUID(id)}'"
        return self.stage.stack.postgres.execute(sql, service) == [str(version)]


@pytest.fixture
def fair(stage: Stage) -> Fair:
    return Fair(stage)


def test_while_conference_is_stopped_an_author_s_events_have_titles_and_an_age(stage: Stage, fair: Fair) -> None:
    path = f"/author/{fair.author}/attendance"
    with stage.stopped("conference"):
        answers = [stage.ask("GET", path) for _ in range(7)]  # more often than it takes to open the breaker
    for answer in answers:
        assert answer.status == 200, answer.says()
        assert answer.body["author"]["full_name"] == "Grace Hopper"
        assert "as_of" not in answer.body["author"]
        (item,) = answer.body["events"]
        assert (item["id"], item["title"], item["operation"]) == (fair.event, "Compilers", fair.operation)
        assert item["conference"]["acronym"] == "SWAT"
        assert answer.body["complete"] is False
        (degraded,) = answer.body["degraded"]
        assert degraded["service"] == "conference"
        assert degraded["reason"]
        assert datetime.fromisoformat(degraded["as_of"]) == datetime.fromisoformat(item["as_of"])
    stage.recovered()


def test_while_conference_is_stopped_the_event_itself_is_shown_from_the_copy(stage: Stage, fair: Fair) -> None:
    with stage.stopped("conference"):
        answer = stage.ask("GET", f"/event/{fair.event}/attendance")
    assert answer.body["event"]["title"] == "Compilers"
    assert answer.body["degraded"][0]["as_of"] is not None
    (item,) = answer.body["attendees"]
    assert (item["full_name"], "as_of" in item) == ("Grace Hopper", False)
    stage.recovered()


def test_while_author_is_stopped_an_event_s_attendees_have_names_and_an_age(stage: Stage, fair: Fair) -> None:
    with stage.stopped("author"):
        by_event = stage.ask("GET", f"/event/{fair.event}/attendance")
        by_author = stage.ask("GET", f"/author/{fair.author}/attendance")
    (item,) = by_event.body["attendees"]
    assert item["full_name"] == "Grace Hopper"
    assert "email" not in item
    assert by_event.body["complete"] is False
    assert by_event.body["degraded"][0]["service"] == "author"
    assert by_author.body["author"]["full_name"] == "Grace Hopper"
    assert by_author.body["events"][0]["title"] == "Compilers"
    stage.recovered()


def test_who_wants_all_or_nothing_is_refused(stage: Stage, fair: Fair) -> None:
    with stage.stopped("conference"):
        url = f"{stage.gateway}/author/{fair.author}/attendance"
        answer = ask("GET", url, headers={"Prefer": "handling=strict"}, timeout_s=10)
    assert (answer.status, answer.body["code"], answer.body["service"]) == (503, "service-unavailable", "conference")
    stage.recovered()


def test_with_both_there_nothing_is_a_copy(stage: Stage, fair: Fair) -> None:
    answer = stage.ask("GET", f"/author/{fair.author}/attendance")
    assert answer.body["complete"] is True
    assert "degraded" not in answer.body
    assert "as_of" not in answer.body["events"][0]


def test_what_can_t_be_read_is_listed_retried_and_dropped_by_command(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator = Operator(stage.stack.places, stage.stack.folder)
    monkeypatch.setattr("tally.cli._operator", lambda: operator)
    broker = stage.stack.places["nats"]
    asyncio.run(_published(f"nats://{broker.host}:{broker.port}", "tally.event.event.updated.nobody", b"nonsense"))
    until(lambda: bool(operator.parked("author")), "the message is parked", PATIENCE_S)
    [item] = operator.parked("author")
    number = str(item["sequence"])
    assert f"author-shadow {number:>15}  not an event" in _typed("parked", "list", "author")
    assert "applied 0; 1 still wait" in _typed("parked", "retry", "author", "author-shadow", number)
    assert f"dropped {number}" in _typed("parked", "drop", "author", "author-shadow", number)
    assert _typed("parked", "list", "author") == ""


async def _published(url: str, subject: str, body: bytes) -> None:
    client = await nats.connect(url)
    await client.jetstream().publish(subject, body)
    await client.close()


def _typed(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output
