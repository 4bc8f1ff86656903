"""Bad input over real HTTP: each a 4xx problem that names the field, nothing stored, and the service goes on."""

import http.client
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from tests.integration.statements.stage import Stage


def sent(
    url: str, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Mapping[str, str], Any]:
    """Status, headers and JSON; a service may answer before it has read a body that is too large."""
    place = urlsplit(url)
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        # Who hangs up in the middle of a body has answered before, and the answer is there to be read.
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(content) if content else None
    finally:
        connection.close()


def deep(levels: int) -> bytes:
    return b'{"full_name":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        (b'{"full_name":"' + b"x" * 10_000_000 + b'"}', 413, "body-too-large", None),
        (deep(5_000), 400, "body-too-deep", None),
        (b'{"full_name":"a\\u0000b"}', 400, "invalid-field", "full_name"),
        (b'{"full_name":"\\ud800"}', 400, None, None),
        (b'{"full_name":""}', 400, "invalid-field", "full_name"),
        (b'{"full_name":"' + b"x" * 1000 + b'"}', 400, "invalid-field", "full_name"),
        (b'{"full_name":1e999}', 400, None, None),
        (b"{}", 400, "missing-field", "full_name"),
        (b"[]", 400, "not-an-object", None),
        (b"{", 400, "not-json", None),
        (b"", 400, "not-json", None),
        (b'{"full_name":"\xff"}', 400, "not-json", None),
    ],
    ids=["10-MB", "deep", "NUL", "surrogate", "empty", "long", "huge", "missing", "list", "cut", "nothing", "latin-1"],
)
def test_a_bad_body_is_a_problem_with_the_field_named_and_nothing_is_stored(
    stage: Stage, body: bytes, status: int, code: str | None, field: str | None
) -> None:
    before = stage.stack.postgres.execute("SELECT count(*) FROM author", "author")
    told, headers, problem = sent(stage.stack.urls["author"], "POST", "/author", body)
    assert told == status, problem
    assert headers["content-type"] == "application/problem+json"
    assert code is None or problem["code"] == code
    assert field is None or problem["field"] == field
    assert stage.stack.postgres.execute("SELECT count(*) FROM author", "author") == before


def test_a_body_without_a_length_that_never_ends_is_cut_off(stage: Stage) -> None:
    place = urlsplit(stage.stack.urls["author"])
    connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=10)
    try:
        chunks = (b"x" * 65_536 for _ in range(200))
        with suppress(BrokenPipeError, ConnectionResetError):
            connection.request("POST", "/author", chunks, encode_chunked=True)
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["code"]) == (413, "body-too-large")
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("service", "method", "path", "status", "code"),
    [
        ("gateway", "PATCH", f"/event/{uuid4()}/attendance/{uuid4()}", 405, "method-not-allowed"),
        ("gateway", "POST", f"/event/{uuid4()}/attendance", 405, "method-not-allowed"),
        ("author", "PUT", "/author", 405, "method-not-allowed"),
        ("gateway", "GET", "/nowhere", 404, "no-such-path"),
        ("gateway", "POST", f"/event/not-a-uuid/attendance/{uuid4()}", 400, "not-a-uuid"),
        ("gateway", "GET", f"/event/{uuid4()}/attendance?limit=0", 400, "invalid-query"),
        ("gateway", "GET", f"/event/{uuid4()}/attendance?limit=999999999999999999999", 400, "invalid-query"),
        ("gateway", "GET", f"/event/{uuid4()}/attendance?after=nonsense", 400, "invalid-query"),
        ("gateway", "GET", "/operation/00000000-0000-4000-8000-000000000000", 404, "operation-not-found"),
        ("gateway", "GET", "/event/%00/attendance", 400, "not-a-uuid"),
    ],
)
def test_a_bad_request_line_is_a_problem(
    stage: Stage, service: str, method: str, path: str, status: int, code: str
) -> None:
    told, headers, problem = sent(stage.stack.urls[service], method, path)
    assert (told, problem["code"]) == (status, code)
    assert headers["content-type"] == "application/problem+json"
    assert status != 405 or headers["allow"]
