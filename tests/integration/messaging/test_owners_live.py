"""The owners as processes, with the stream between them: what one shows of the other while that one is stopped, what
the settler tells of a half that it voids, and what an operator does about messages that can't be read and events that
wait.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeAlias
from uuid import UUID

import asyncpg
import nats
import pytest
from click.testing import CliRunner

from services.attendance import ATTENDANCE
from tally.chassis.clock import SystemClock
from tally.cli import main
from tally.halves.postgres import PostgresStore
from tally.local.ask import ask
from tally.local.operator import Operator
from tally.local.services import SERVICES
from tally.local.stack import LocalStack, free_ports
from tally.protocol.messages import RecordItem
from tally.protocol.operation import make
from tally.protocol.participant import Answer
from tally.protocol.relationship import Side
from tests.integration.statements.stage import Stage, until
from tests.support.folders import scratch_folder

PATIENCE_S = 20.0
Typed: TypeAlias = Callable[..., str]


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


@pytest.fixture
def typed(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Typed:
    operator = Operator(stage.stack.places, stage.stack.folder)
    monkeypatch.setattr("tally.cli._operator", lambda: operator)
    return _typed


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


def test_what_can_t_be_read_is_listed_retried_and_dropped_by_command(stage: Stage, typed: Typed) -> None:
    operator = Operator(stage.stack.places, stage.stack.folder)
    broker = stage.stack.places["nats"]
    asyncio.run(_published(f"nats://{broker.host}:{broker.port}", "tally.event.event.updated.nobody", b"nonsense"))
    until(lambda: bool(operator.parked("author")), "the message is parked", PATIENCE_S)
    [item] = operator.parked("author")
    number = str(item["sequence"])
    assert f"author-shadow {number:>15}  not an event" in typed("parked", "list", "author")
    assert "applied 0; 1 still wait" in typed("parked", "retry", "author", "author-shadow", number)
    assert f"dropped {number}" in typed("parked", "drop", "author", "author-shadow", number)
    assert typed("parked", "list", "author") == "Nothing is parked.\n"


# --- what the settler voids ---------------------------------------------------------------------------------


def test_a_lone_half_that_is_voided_is_told(stage: Stage) -> None:
    operation = make(SystemClock().now_ms(), 1)
    half = RecordItem(operation, UUID(stage.author()), UUID(stage.event()))
    asyncio.run(_recorded_by_author_alone(stage.stack.dsn("author"), half))
    told = f"SELECT version, data FROM outbox WHERE type = 'operation.voided' AND subject = '{operation}'"
    until(lambda: bool(stage.stack.postgres.execute(told, "conference")), "it is told", PATIENCE_S)
    [row] = stage.stack.postgres.execute(told, "conference")
    _, data = row.split("|")
    assert json.loads(data) == {"operation": str(operation), "side": "left"}
    assert stage.live(str(half.right), str(half.left)) == {"author": [], "conference": []}


async def _recorded_by_author_alone(dsn: str, half: RecordItem) -> None:
    """As if the gateway had died before it told the conference service."""
    connection = await asyncpg.connect(dsn)
    try:
        store = PostgresStore(ATTENDANCE, Side.LEFT, connection)
        verdicts = await store.record([half], SystemClock().now_ms())
        assert [item.answer for item in verdicts.items] == [Answer.RECORDED]
    finally:
        await connection.close()


# --- events that wait ---------------------------------------------------------------------------------------


NONE_WAIT = "0 events wait (published from the outbox table)."


def test_a_command_says_how_many_events_wait_for_the_broker(stage: Stage, typed: Typed) -> None:
    until(lambda: NONE_WAIT in typed("outbox", "status", "author"), "all events are published", PATIENCE_S)
    with stage.stopped("nats"):
        before = datetime.now(UTC)
        stage.author("Waiting Till It Is Back")
        [count, since] = re.findall(
            r"^(\d+) events wait, the oldest since (\S+) \(", typed("outbox", "status", "author")
        )[0]
    assert int(count) == 1
    assert before <= datetime.fromisoformat(since) <= datetime.now(UTC)
    until(lambda: NONE_WAIT in typed("outbox", "status", "author"), "the event is published", PATIENCE_S)


def test_a_command_publishes_events_once_more(stage: Stage, typed: Typed) -> None:
    published = "SELECT count(*), coalesce(min(published_at)::text, '') FROM outbox"
    old = stage.author("Published Before")
    until(lambda: NONE_WAIT in typed("outbox", "status", "author"), "all events are published", PATIENCE_S)
    [row] = stage.stack.postgres.execute(published, "author")
    count, first = row.split("|")
    assert f"{count} events since " in typed("outbox", "republish", "author", "--since", "1h")
    until(lambda: NONE_WAIT in typed("outbox", "status", "author"), "all are published again", PATIENCE_S)
    [row] = stage.stack.postgres.execute(published, "author")
    assert row.split("|")[0] == count
    assert datetime.fromisoformat(row.split("|")[1]) > datetime.fromisoformat(first)
    # Who has applied them already applies nothing.
    kept = f"SELECT version FROM shadow_author WHERE id = '{UUID(old)}'"
    until(lambda: stage.stack.postgres.execute(kept, "conference") == ["1"], "the copy is what it was", PATIENCE_S)


def test_events_since_a_moment_to_come_are_none(typed: Typed) -> None:
    assert "0 events since " in typed("outbox", "republish", "author", "--since", "2999-01-01T00:00:00+00:00")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("status", "nobody"), "There is no service nobody"),
        (("republish", "author", "--since", "yesterday"), "yesterday is no time"),
    ],
)
def test_a_command_that_can_t_be_meant_gets_a_sentence(typed: Typed, words: tuple[str, ...], sentence: str) -> None:
    result = CliRunner().invoke(main, ("outbox", *words))
    assert result.exit_code != 0
    assert sentence in result.output
    assert "Traceback" not in result.output


async def _published(url: str, subject: str, body: bytes) -> None:
    client = await nats.connect(url)
    await client.jetstream().publish(subject, body)
    await client.close()


def _typed(*words: str) -> str:
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 0, result.output
    return result.output
