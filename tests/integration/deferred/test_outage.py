"""With real processes: requests that are deferred while a service is down, and the mails that tell how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tally.cli import main
from tally.local.ask import Answer, ask
from tally.local.control import Control, Remote
from tally.local.failure import LocalError
from tally.local.operator import Operator
from tally.local.processes import free_port
from tally.local.stack import LocalStack
from tally.local.walkthrough import Demonstration

ASYNC = {"Prefer": "respond-async"}
FINAL = ("confirmed", "rejected", "abandoned")


def test_what_is_deferred_while_a_service_is_down_is_decided_afterwards_in_order_per_author(stack: LocalStack) -> None:
    scene = Scene(stack)
    authors = [scene.author(f"Author {n}", f"author{n}@example.org") for n in range(6)]
    events = [scene.event() for _ in range(5)]
    gone = scene.author("Gone", "gone@example.org")
    stack.stop_service("conference")
    try:
        pairs = [(event, author) for event in events for author in (*authors, gone)]
        operations = [scene.deferred(event, author) for event, author in pairs]
        assert ask("DELETE", f"{stack.urls['author']}/author/{gone}").status == 204
    finally:
        stack.start_service("conference")
    ends = [scene.end(operation) for operation in operations]
    states = {
        author: [end["state"] for end, pair in zip(ends, pairs, strict=True) if pair[1] == author] for author in authors
    }
    assert states == {author: ["confirmed"] * len(events) for author in authors}
    codes = [end["reasons"] for end, pair in zip(ends, pairs, strict=True) if pair[1] == gone]
    assert codes == [["author-not-found"]] * len(events)
    began = defaultdict(list)
    for end, (_, author) in zip(ends, pairs, strict=True):
        if author != gone:
            began[author].append(end["attempt"])
    # An attempt's id begins with its time: those of an author were begun one after the other.
    assert all(attempts == sorted(attempts) for attempts in began.values())
    attempts = [end["attempt"] for end in ends if end["state"] == "confirmed"]
    wanted = {f"<{op}.confirmed@tally.localhost>" for op in attempts}
    ids = scene.mails_until(lambda ids: wanted <= set(ids))
    assert all(ids.count(id) == 1 for id in wanted)


def test_a_202_says_where_to_ask_and_the_same_key_is_the_same_operation(stack: LocalStack) -> None:
    scene = Scene(stack)
    author, event = scene.author("Ada", "ada@example.org"), scene.event()
    path = f"/event/{event}/attendance/{author}"
    headers = {**ASYNC, "Idempotency-Key": f"key-{author}"}
    first = scene.ask("PUT", path, headers)
    assert (first.status, first.headers["preference-applied"]) == (202, "respond-async")
    assert first.headers["location"] == f"/operation/{first.body['id']}"
    assert first.body["state"] == "deferred"
    assert scene.ask("PUT", path, headers).body["id"] == first.body["id"]
    other = scene.ask("PUT", f"/event/{scene.event()}/attendance/{author}", headers)
    assert (other.status, other.body["code"]) == (422, "idempotency-key-reused")
    end = scene.end(first.body["id"])
    assert (end["state"], end["location"]) == ("confirmed", path)
    assert scene.ask("GET", path).body["operation"] == end["attempt"]


def test_an_operator_gives_up_what_waits_and_is_told_when_it_is_too_late(stack: LocalStack) -> None:
    scene = Scene(stack)
    operator = Operator(stack.places, stack.folder)
    author, event = scene.author("Ada", "ada@example.org"), scene.event()
    stack.stop_service("conference")
    try:
        operation = scene.deferred(event, author)
        operator.order(operation, "abandon")
        assert scene.end(operation)["state"] == "abandoned"
    finally:
        stack.start_service("conference")
    refused = operator.ask("gateway", "POST", f"/admin/operations/{operation}/retry")
    assert (refused.status, refused.body["code"]) == (409, "operation-ended")
    unknown = operator.ask("gateway", "POST", f"/admin/operations/{author}/abandon")
    assert (unknown.status, unknown.body["code"]) == (404, "operation-not-found")


def test_without_the_broker_it_is_refused_and_nothing_happens_later(stack: LocalStack) -> None:
    scene = Scene(stack)
    author, event = scene.author("Ada", "ada@example.org"), scene.event()
    stack.stop_service("nats")
    try:
        answer = until(
            lambda: scene.ask("POST", f"/event/{event}/attendance/{author}", ASYNC), lambda a: a.status == 503
        )
        assert (answer.body["code"], answer.body["retryable"]) == ("service-unavailable", True)
        assert scene.ask("POST", f"/event/{scene.event()}/attendance/{author}").status == 201
    finally:
        stack.start_service("nats")
    # The gateway finds the broker again by itself.
    other = f"/event/{scene.event()}/attendance/{author}"
    later = until(lambda: scene.ask("POST", other, ASYNC), lambda answer: answer.status == 202)
    assert scene.end(later.body["id"])["state"] == "confirmed"
    assert scene.ask("GET", f"/event/{event}/attendance/{author}").status == 404


def test_the_demonstration_shows_an_outage_and_leaves_everything_running(stack: LocalStack) -> None:
    said: list[str] = []
    with Control(stack):
        remote = Remote(stack.folder)
        assert remote.is_there
        Demonstration(stack.places, said.append, outage=remote.stopped).run()
    shown = "\n".join(said)
    assert "$ tally stop conference" in shown
    assert "-X POST -H 'Prefer: respond-async'" in shown
    assert "The mail has come, once." in shown
    assert not Remote(stack.folder).is_there
    stack.wait_ready("conference", timeout_s=1.0)


def test_the_command_finds_the_stack_of_its_folder_while_it_runs(stack: LocalStack) -> None:
    def typed(*arguments: str, **more: str) -> Result:
        return CliRunner(env={"TALLY_LOCAL_FOLDER": str(stack.folder), **more}).invoke(main, [*arguments])

    with Control(stack):
        assert Remote(stack.folder).places() == stack.places
        status = typed("status")
        assert status.exit_code == 0, status.output
        assert stack.urls["gateway"] in status.stdout
        assert typed("status", TALLY_LOCAL_AUTHOR_PORT=str(free_port())).exit_code == 1
        token = typed("token", "notifier").stdout.strip()
        url = f"{stack.admin_urls['notifier']}/admin/mail?limit=1"
        assert ask("GET", url, headers={"Authorization": f"Bearer {token}"}).status == 200
        assert ask("GET", url).status == 401
        assert "the names are author, conference" in typed("token", "nobody").stderr
        told = (stack.folder / "control.json").read_text()
    assert Remote(stack.folder).places() is None
    (stack.folder / "control.json").write_text(told)  # as a run leaves it that is killed
    assert Remote(stack.folder).places() is None
    (stack.folder / "control.json").unlink()


def test_a_shell_that_has_the_environment_has_the_databases(stack: LocalStack) -> None:
    script = (
        'eval "$(tally env)"; psql -XAtc "SELECT 1" postgres; psql -XAtc "SELECT current_user" "$AUTHOR_DATABASE_URL"'
    )
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    told = subprocess.run(
        ["bash", "-euc", script],
        env={**os.environ, "PATH": path, "TALLY_LOCAL_FOLDER": str(stack.folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (told.returncode, told.stdout.split()) == (0, ["1", "author"]), told.stderr


def test_a_service_that_was_stopped_by_someone_who_is_killed_comes_back(stack: LocalStack) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from tally.local.control import Remote\n"
        "with Remote(Path(sys.argv[1])).stopped('notifier'): print('stopped', flush=True); time.sleep(60)"
    )
    with Control(stack):
        with subprocess.Popen([sys.executable, "-c", holder, str(stack.folder)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"stopped\n"
            assert "notifier" not in stack.running()
            process.kill()
        stack.wait_ready("notifier")
        with pytest.raises(LocalError, match="no service postgres to stop"):
            Remote(stack.folder).stop("postgres")
    with pytest.raises(LocalError, match="No Tally runs from"):
        Remote(stack.folder).start("notifier")


class Scene:
    """Entities, requests and mails of one stack."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._urls = stack.urls

    def author(self, full_name: str, email: str) -> str:
        return self._made("author", "/author", {"full_name": full_name, "email": email})

    def event(self) -> str:
        conference = self._made("conference", "/conference", {"acronym": "SWAT"})
        return self._made("conference", "/event", {"conference_id": conference, "seq": 1, "title": "Opening"})

    def _made(self, service: str, path: str, body: dict[str, Any]) -> str:
        answer = ask("POST", self._urls[service] + path, body)
        assert answer.status == 201, answer.says()
        return str(answer.body["id"])

    def ask(self, method: str, path: str, headers: dict[str, str] | None = None) -> Answer:
        return ask(method, self._urls["gateway"] + path, headers=headers or {})

    def deferred(self, event: str, author: str) -> str:
        answer = self.ask("POST", f"/event/{event}/attendance/{author}", ASYNC)
        assert answer.status == 202, answer.says()
        return str(answer.body["id"])

    def end(self, operation: str) -> dict[str, Any]:
        """The operation when it has ended."""
        answer = until(
            lambda: self.ask("GET", f"/operation/{operation}"),
            lambda answer: answer.status == 200 and answer.body["state"] in FINAL,
        )
        return dict(answer.body)

    def mails_until(self, holds: Callable[[list[str]], bool]) -> list[str]:
        """The Message-IDs in the inbox, once that holds of them."""
        page = self._stack.admin_urls["mail"]
        return until(lambda: [mail["message_id"] for mail in ask("GET", f"{page}/mail").body["items"]], holds)


def until(look: Callable[[], Any], holds: Callable[[Any], bool], timeout_s: float = 45.0) -> Any:
    give_up_s = time.monotonic() + timeout_s
    while not holds(seen := look()):
        assert time.monotonic() < give_up_s, f"not within {timeout_s:g} s; last seen: {seen}"
        time.sleep(0.1)
    return seen
