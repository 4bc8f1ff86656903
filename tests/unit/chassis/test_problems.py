"""An error says the same thing to everybody: by its code, its status, and in one shape."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request

import tally.chassis
from tally.chassis import context, logs, problems
from tally.chassis.problems import (
    CODES,
    TYPE_BASE,
    Code,
    FieldError,
    Problem,
    on_http_exception,
    problem_response,
    unexpected_response,
)

OPERATION = "01890a5d-ac96-774b-bcce-b302099a8057"


def request(path: str = "/author/1", method: str = "GET") -> Request:
    return Request({"type": "http", "method": method, "path": path, "headers": [], "query_string": b""})


def rendered(problem: Problem, path: str = "/author/1") -> dict[str, Any]:
    content: dict[str, Any] = json.loads(bytes(problem_response(problem, request(path)).body))
    return content


def test_a_problem_has_the_members_of_rfc_9457_and_ours() -> None:
    here = context.fresh()
    with context.use(here):
        content = rendered(
            Problem(
                "outcome-unknown",
                "The conference service did not answer.",
                service="conference",
                operation=OPERATION,
            )
        )
    assert content == {
        "type": TYPE_BASE + "outcome-unknown",
        "title": "Whether it was done is not known yet",
        "status": 504,
        "detail": "The conference service did not answer.",
        "instance": "/author/1",
        "code": "outcome-unknown",
        "retryable": True,
        "service": "conference",
        "operation": OPERATION,
        "operation_url": f"/operation/{OPERATION}",
        "trace_id": here.trace_id,
        "request_id": here.request_id,
    }


def test_members_that_do_not_apply_are_absent() -> None:
    assert set(rendered(Problem("not-found", "No."))) == {
        "type", "title", "status", "detail", "instance", "code", "retryable",
    }  # fmt: skip


def test_fields_are_named() -> None:
    problem = Problem("invalid-field", "No.", field="seq", errors=[FieldError("seq", "must be an integer")])
    content = rendered(problem)
    assert content["field"] == "seq"
    assert content["errors"] == [{"field": "seq", "detail": "must be an integer"}]


def test_the_media_type_is_problem_json() -> None:
    response = problem_response(Problem("not-found", "No."), request())
    assert response.headers["content-type"] == "application/problem+json"
    assert "retry-after" not in response.headers


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "0"), (0.1, "1"), (2.0, "2"), (2.01, "3"), (-5.0, "0")])
def test_retry_after_is_in_whole_seconds_rounded_up(seconds: float, header: str) -> None:
    problem = Problem("service-unavailable", "Down.", retry_after_s=seconds)
    assert problem_response(problem, request()).headers["retry-after"] == header


def test_retry_after_has_a_default_by_code() -> None:
    assert problem_response(Problem("overloaded", "Busy."), request()).headers["retry-after"] == "1"


def test_unauthenticated_says_how_to_authenticate() -> None:
    response = problem_response(Problem("unauthenticated", "No token."), request())
    assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("path", ["/a b", "/\0\n", "/€", "/" + "x" * 9000])
def test_any_path_can_be_the_instance(path: str) -> None:
    instance = rendered(Problem("no-such-path", "No."), path)["instance"]
    assert instance.isascii()
    assert len(instance) <= 2000
    assert not set(instance) & set(" \0\n")


def test_an_unknown_code_is_a_bug_of_ours() -> None:
    with pytest.raises(KeyError):
        Problem("no-such-code", "?")


def test_a_code_is_declared_once_and_keeps_its_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "_codes", codes := dict(CODES))
    problems.declare({"speaker-not-found": Code(404, "There is no such speaker")})
    problems.declare({"speaker-not-found": Code(404, "There is no such speaker")})
    assert codes["speaker-not-found"].status == 404
    with pytest.raises(ValueError, match="author-not-found"):
        problems.declare({"author-not-found": Code(410, "The author is gone")})


@pytest.mark.parametrize("code", CODES)
def test_every_code_makes_sense(code: str) -> None:
    meaning = CODES[code]
    assert code == code.lower()
    assert " " not in code
    assert 400 <= meaning.status <= 599
    # Waiting helps exactly where the same request may succeed later.
    assert meaning.retryable == (meaning.retry_after_s is not None)
    # Of what failed on our side, only the unforeseen is not worth another try.
    assert meaning.retryable or meaning.status < 500 or code == "internal"


CONTRACT = {
    "not-json": 400, "not-an-object": 400, "invalid-field": 400, "missing-field": 400, "not-a-uuid": 400,
    "body-too-large": 413, "body-too-deep": 400, "invalid-query": 400, "not-found": 404, "no-such-path": 404,
    "method-not-allowed": 405, "author-not-found": 404, "event-not-found": 404, "conference-not-found": 404,
    "both-not-found": 404, "attendance-not-found": 404, "operation-not-found": 404, "event-full": 409,
    "already-exists": 409, "has-dependents": 409, "capacity-below-taken": 409, "version-mismatch": 412,
    "idempotency-key-reused": 422, "idempotency-in-flight": 409, "contended": 409,
    "service-unavailable": 503, "outcome-unknown": 504, "overloaded": 503, "deadline-exceeded": 504,
    "unauthenticated": 401, "forbidden": 403, "internal": 500,
}  # fmt: skip


def test_no_code_is_renamed_or_moved() -> None:
    assert {code: CODES[code].status for code in CONTRACT} == CONTRACT


def test_only_the_table_has_statuses_of_errors() -> None:
    """A handler that says 404 by itself has no code, and no client can tell why."""
    folder = Path(tally.chassis.__path__[0])
    ours = [folder / f"{name}.py" for name in ("http", "body", "openapi", "docs", "resource", "idempotency")]
    for file in ours:
        numbers = {node.value for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Constant)}
        assert not {n for n in numbers if type(n) is int and n in {m.status for m in CODES.values()} - {500}}, file


# --- what was not raised as a Problem -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code"),
    [(404, "no-such-path"), (405, "method-not-allowed"), (413, "body-too-large"), (400, "bad-request"),
     (418, "bad-request"), (503, "service-unavailable"), (500, "internal")],
)  # fmt: skip
async def test_the_frameworks_own_errors_have_codes(status: int, code: str) -> None:
    response = await on_http_exception(request(), HTTPException(status))
    assert json.loads(bytes(response.body))["code"] == code
    assert response.status_code == CODES[code].status


async def test_the_allow_header_of_the_framework_is_kept() -> None:
    response = await on_http_exception(request(), HTTPException(405, headers={"Allow": "GET"}))
    assert response.headers["allow"] == "GET"


def test_the_unforeseen_is_logged_with_its_traceback_and_not_told() -> None:
    try:
        raise ValueError("SELECT secret FROM author")
    except ValueError as error:
        with logs.capture() as logged:
            response = unexpected_response(error, request())
    content = json.loads(bytes(response.body))
    assert (response.status_code, content["code"], content["retryable"]) == (500, "internal", False)
    assert "secret" not in bytes(response.body).decode()
    [line] = logged
    assert "ValueError: SELECT secret FROM author" in line["traceback"]
    assert line["level"] == "error"


def test_a_problem_reads_as_a_sentence() -> None:
    problem = Problem("event-full", "The event SWAT#1 has no free seat.")
    assert repr(problem) == "<Problem event-full: The event SWAT#1 has no free seat.>"
    assert (problem.status, problem.title) == (409, "The event has no free seat")
