"""`tally operation`: what is told of an operation, and by which exit code a script learns that it is not decided."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, get_args, get_type_hints
from uuid import uuid4

import pytest
from click.testing import CliRunner, Result

from tally.cli import main
from tally.gateway.routes import Operation
from tally.local.ask import Answer
from tally.local.outcomes import NOT_YET, OPEN, STATES, in_words

Ask = Callable[..., Result]


@contextmanager
def gateway(*answers: tuple[int, dict[str, Any]]) -> Iterator[Ask]:
    """A gateway that gives these answers, the last one for ever; and the command that asks it."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = left.pop(0) if len(left) > 1 else left[0]
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {"TALLY_LOCAL_GATEWAY_PORT": str(server.server_port)}
        yield lambda *arguments: CliRunner(env=environment).invoke(main, ["operation", *arguments])
        server.shutdown()


def told(state: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"state": state, "halves": {"author": "live", "conference": "live"}, **more}


def test_an_operation_is_explained_by_its_id_alone() -> None:
    with gateway(told("done")) as ask:
        result = ask(str(uuid4()))
        assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Done: it is recorded on both sides.")
        assert ask("show", str(uuid4())).stdout == result.stdout


@pytest.mark.parametrize("state", STATES)
def test_the_exit_code_tells_whether_it_is_decided(state: str) -> None:
    with gateway(told(state)) as ask:
        assert ask(str(uuid4())).exit_code == (3 if state in OPEN else 0)


def test_who_waits_is_told_the_end() -> None:
    with gateway(told("unknown"), told("undecided"), told("refused")) as ask:
        result = ask(str(uuid4()), "--wait", "20")
    assert (result.exit_code, result.stdout.splitlines()[0]) == (0, "Refused: nothing is recorded, now or later.")


def test_an_operation_nobody_knows_is_told_as_the_problem_tells_it() -> None:
    problem = {"code": "operation-not-found", "detail": "No service knows it."}
    with gateway((404, problem)) as ask:
        result = ask(str(uuid4()))
    assert (result.exit_code, result.stdout) == (1, "404 operation-not-found: No service knows it.\n")


def test_a_typo_has_another_exit_code_than_what_is_not_decided() -> None:
    for mistyped in ("x", "--wiat"):
        assert CliRunner().invoke(main, ["operation", mistyped]).exit_code == 2 != NOT_YET


def test_what_neither_side_has_is_not_said_to_be_known_to_one() -> None:
    def words(author: str, conference: str) -> str:
        halves = {"author": author, "conference": conference}
        return in_words(Answer(200, "OK", {}, {"state": "undecided", "halves": halves}))

    assert words("open", "open").startswith("Undecided: neither side has it yet.")
    assert words("live", "open").startswith("Undecided: only one side has it yet;")


def test_every_state_that_the_gateway_may_answer_has_its_words() -> None:
    assert set(STATES) == set(get_args(get_type_hints(Operation)["state"]))
    for state in STATES:
        words = in_words(Answer(200, "OK", {}, {"state": state, "halves": {"author": "absent"}}))
        assert words.lower().startswith(state)
        assert words.endswith("  author       absent")


def test_who_is_not_told_an_outcome_is_told_what_is_safe() -> None:
    words = in_words(Answer(200, "OK", {}, told("unknown")[1]))
    assert "neither done nor refused yet" in words
    assert "neither done nor refused yet" not in in_words(Answer(200, "OK", {}, told("refused")[1]))


def test_the_history_is_told_where_there_is_one() -> None:
    history = [
        {"state": "requested", "at": "2026-05-04T12:00:00Z"},
        {"state": "refused", "at": "2026-05-04T12:00:01Z", "reason": "event-full"},
    ]
    words = in_words(Answer(200, "OK", {}, told("refused", reasons=["full"], history=history)[1])).splitlines()
    assert words[-3:] == [
        "  reasons      full",
        "  2026-05-04T12:00:00Z  requested",
        "  2026-05-04T12:00:01Z  refused (event-full)",
    ]
