"""What arrives is a struct or a problem that names what is wrong; what is declared is what is served."""

from __future__ import annotations

import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis.body import DEPTH_MAX, NO_NUL, VISIBLE, json_body, parse_body, read_body
from tally.chassis.http import (
    AFTER,
    QueryParameter,
    Route,
    after,
    cursor,
    encoded_response,
    json_response,
    limit,
    path_uuid,
    preferences,
    query_value,
    starlette_routes,
)
from tally.chassis.problems import Problem, on_http_exception

ID = UUID("01890a5d-ac96-774b-bcce-b302099a8057")


class Talk(Struct):
    title: Annotated[str, Meta(min_length=1, max_length=10, pattern=VISIBLE)]
    seats: Annotated[int, Meta(ge=0, le=1000)] | None = None
    speaker: UUID | None = None
    starts_at: Annotated[datetime, Meta(tz=True)] | None = None
    tags: Annotated[list[Annotated[str, Meta(pattern=NO_NUL)]], Meta(max_length=3)] = []
    open: bool = True


class TalkPatch(Struct):
    title: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    seats: int | UnsetType | None = UNSET


def refused(raw: bytes | str, shape: type[Struct] = Talk) -> Problem:
    with pytest.raises(Problem) as caught:
        parse_body(raw.encode() if isinstance(raw, str) else raw, shape)
    return caught.value


# --- bodies -------------------------------------------------------------------------------------------------


def test_a_good_body_is_the_struct() -> None:
    raw = json.dumps(
        {
            "title": "Ein Gruß",
            "seats": 3,
            "speaker": str(ID),
            "starts_at": "2026-05-01T10:00:00+02:00",
            "tags": ["a"],
        }
    ).encode()
    talk = parse_body(raw, Talk)
    assert talk == Talk("Ein Gruß", 3, ID, datetime(2026, 5, 1, 8, tzinfo=UTC), ["a"])


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    raw = '{"title": "a", "id": 7, "nul": "\\u0000", "\\u0000": [], "half": "\\ud800", "huge": 1e999, "deep": [[[]]]}'
    assert parse_body(raw.encode(), Talk) == Talk("a")


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert parse_body(b'{"title": "\\ud83d\\ude00"}', Talk).title == "\U0001f600"


@pytest.mark.parametrize("number", ["2.0", "2e0", "20e-1"])
def test_an_integer_may_be_spelt_as_json_schema_allows(number: str) -> None:
    seats = parse_body(f'{{"title": "a", "seats": {number}}}'.encode(), Talk).seats
    assert (seats, type(seats)) == (2, int)


@pytest.mark.parametrize("raw", ["", " \n\t", "\u3000"])
def test_an_empty_body_is_told_what_to_send(raw: str) -> None:
    problem = refused(raw)
    assert problem.code == "not-json"
    assert problem.detail == 'The body is empty; send a JSON object with "title".'


@pytest.mark.parametrize(
    ("raw", "where"),
    [
        ("{", "line 1 column 2"),
        ("full_name=Alan", "line 1 column 1"),
        ('{"title": "a"} x', "line 1 column 16"),
        ('{\n"title": a}', "line 2 column 10"),
        ("{'title': 'a'}", "line 1 column 2"),
        ('{"title": "a\x00"}', "line 1 column 13"),
        ('{"title": "a\n"}', "line 1 column 13"),
        ('{"title": "\\x"}', "line 1 column 12"),
        ('{"title": "a", "seats": 01}', "line 1 column 26"),
        ('{"title": "a",}', "column"),
        ("\ufeff{}", "line 1 column 1"),
        ('{"title": "a", "seats": NaN}', "NaN"),
        ('{"title": "a", "seats": -Infinity}', "-Infinity"),
        ('{"title": "a", "unknown": [Infinity]}', "Infinity"),
        (b'{"title": "\xff"}', "byte 12"),
        (b'{"title": "\xed\xa0\x80"}', "byte 12"),
        (b'{"title": "a", "unknown": "\xc0\xaf"}', "byte 28"),
        ("a" * 10_485_760, "line 1 column 1"),
    ],
)
def test_what_is_not_json_is_told_where(raw: str | bytes, where: str) -> None:
    problem = refused(raw)
    assert problem.code == "not-json"
    assert where in problem.detail
    assert " at at " not in problem.detail


@pytest.mark.parametrize("raw", ["[]", '[{"title": "a"}]', '"title"', "1", "null", "true", "1" * 5000])
def test_json_that_is_no_object(raw: str) -> None:
    assert refused(raw).code == "not-an-object"


@pytest.mark.parametrize(
    ("field", "value", "detail"),
    [
        ("title", "1", "must be a string, not an integer"),
        ("title", "null", "must be a string, not null"),
        ("title", '["a"]', "must be a string, not an array"),
        ("title", '{"a": 1}', "must be a string, not an object"),
        ("title", '""', "must be a string of length >= 1"),
        ("title", '"   "', "must hold a visible character"),
        ("title", '"\\t\\n\u00a0\u2003\u200b"', "must hold a visible character"),
        ("title", '"12345678901"', "must be a string of length <= 10"),
        ("title", '"' + "x" * 1_000_000 + '"', "must be a string of length <= 10"),
        ("title", '"a\\u0000b"', "holds a NUL character"),
        ("title", '"\\ud800"', "holds half of a surrogate pair"),
        ("title", '"\\udc00a"', "holds half of a surrogate pair"),
        ("title", '"\\ude00\\ud83d"', "holds half of a surrogate pair"),
        ("seats", '"3"', "must be an integer or null, not a string"),
        ("seats", "true", "must be an integer or null, not true or false"),
        ("seats", "-1", "must be an integer >= 0"),
        ("seats", "1001", "must be an integer <= 1000"),
        ("seats", "1.5", "must be an integer or null, not a number"),
        ("seats", "1e30", "must be an integer or null, not a number"),
        ("seats", "1e999", "is too large a number"),
        ("seats", "-1e999", "is too large a number"),
        ("seats", str(2**63), "must be an integer <= 1000"),
        ("seats", "9" * 100_000, "must be an integer <= 1000"),
        ("seats", "-" + "9" * 100_000, "must be an integer >= 0"),
        ("speaker", '"abc"', "is refused: Invalid UUID"),
        ("speaker", "7", "must be a UUID or null, not an integer"),
        ("starts_at", '"tomorrow"', "is refused: Invalid RFC3339 encoded datetime"),
        ("starts_at", '"2026-05-01T10:00:00"', "must be a time with a timezone component"),
        ("starts_at", '"0001-01-01T00:00:00+14:00"', "is outside the years 1 to 9999 (UTC)"),
        ("starts_at", '"9999-12-31T23:59:59-14:00"', "is outside the years 1 to 9999 (UTC)"),
        ("starts_at", "5", "must be a time or null, not an integer"),
        ("open", "1", "must be true or false, not an integer"),
        ("tags", '["a", "b", "c", "d"]', "must be an array of length <= 3"),
        ("tags", '["a\\u0000"]', "holds a NUL character"),
        ("tags", '["\\ud800"]', "holds half of a surrogate pair"),
        ("tags", '{"a": "\\u0000"}', "holds a NUL character"),
    ],
)
def test_a_bad_value_is_named(field: str, value: str, detail: str) -> None:
    others = "" if field == "title" else '"title": "a", '
    problem = refused(f'{{{others}"{field}": {value}}}')
    assert (problem.code, problem.field) == ("invalid-field", field)
    assert problem.detail == f'The field "{field}" {detail}.'
    assert [(error.field, error.detail) for error in problem.errors] == [(field, detail)]


def test_a_bad_item_is_named_with_its_place() -> None:
    problem = refused('{"title": "a", "tags": ["a", 2]}')
    assert problem.field == "tags[1]"


def test_a_missing_field_is_named() -> None:
    problem = refused('{"seats": 3}')
    assert (problem.code, problem.field) == ("missing-field", "title")
    assert problem.detail == 'The field "title" is required.'


def test_all_bad_fields_are_named_at_once() -> None:
    problem = refused('{"seats": "x", "starts_at": 1, "tags": ["\\u0000"], "open": true}')
    assert (problem.code, problem.field) == ("missing-field", "title")
    assert problem.detail == 'The field "title" is required (and 3 more).'
    assert [error.field for error in problem.errors] == ["title", "seats", "starts_at", "tags"]


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ('{"title": "a", "title": "b"}', "title"),
        ('{"title": "a", "x": {"y": 1, "y": 1}}', "y"),
        ('{"\\ud800": 1, "\\ud800": 2}', "\\ud800"),
        ('{"\\u0000": 1, "\\u0000": 2}', "\\x00"),
    ],
)
def test_a_field_that_stands_twice_is_refused(raw: str, key: str) -> None:
    problem = refused(raw)
    assert (problem.code, problem.field) == ("invalid-field", key)


@pytest.mark.parametrize(
    "raw",
    [
        "[" * 20_000,
        '{"a":' * 20_000,
        '{"title":"a","x":' + "[" * DEPTH_MAX + "]" * DEPTH_MAX + "}",
        '{"title":' + '{"a":' * DEPTH_MAX + "1" + "}" * DEPTH_MAX + "}",
        '{"title":"a","x":' + "[" * 900 + "]" * 900 + "}",
        '{"title":"a","x":' + "[" * 5000 + "]" * 5000 + "}",
    ],
)
def test_a_deep_body_is_refused(raw: str) -> None:
    assert refused(raw).code == "body-too-deep"


@pytest.mark.parametrize("raw", ["[" * 1_000_000, '{"title":"a","x":[' + "[]," * 300_000 + "1]}", "," * 20_001])
def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(raw: str) -> None:
    assert refused(raw).code == "body-too-large"


def test_depth_is_counted_not_brackets() -> None:
    raw = '{"title":"a","x":' + "[" * (DEPTH_MAX - 1) + "]" * (DEPTH_MAX - 1) + "}"
    assert parse_body(raw.encode(), Talk) == Talk("a")
    flat = '{"title":"a","x":[' + ",".join(["[{}]"] * 500) + '],"y":"' + "[{" * 500 + '"}'
    assert parse_body(flat.encode(), Talk) == Talk("a")


def test_null_and_absent_differ_in_a_patch() -> None:
    assert parse_body(b"{}", TalkPatch) == TalkPatch()
    assert parse_body(b'{"seats": null}', TalkPatch).seats is None
    problem = refused('{"title": null}', TalkPatch)
    assert problem.detail == 'The field "title" must be a string, not null.'


def test_an_empty_body_for_a_patch_does_not_name_fields() -> None:
    assert refused("", TalkPatch).detail == "The body is empty; send a JSON object."


class Span(Struct):
    first: int
    last: int

    def __post_init__(self) -> None:
        if self.last < self.first:
            raise ValueError("last is before first")


def test_a_rule_of_the_whole_struct_is_told() -> None:
    problem = refused('{"first": 2, "last": 1}', Span)
    assert (problem.code, problem.field) == ("invalid-field", None)
    assert "last is before first" in problem.detail


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.text(st.characters(categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
_NAMES = st.sampled_from(Talk.__struct_fields__) | st.text()


@settings(deadline=None)
@given(st.binary() | st.dictionaries(_NAMES, _JSON).map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_storable_struct_or_a_problem(raw: bytes) -> None:
    try:
        talk = parse_body(raw, Talk)
    except Problem as problem:
        assert problem.status == 400
        json.dumps(problem.detail).encode()
        return
    for text in (talk.title, *talk.tags):
        assert "\0" not in text
        text.encode()
    assert talk.title.strip()
    assert talk.seats is None or 0 <= talk.seats <= 1000


# --- reading ------------------------------------------------------------------------------------------------


class Sender:
    """A client that sends `chunks` of 1000 bytes; knows how many were taken from it."""

    def __init__(self, chunks: int, headers: dict[str, str] | None = None) -> None:
        self.taken = 0
        self._chunks = chunks
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": raw, "query_string": b""}
        self.request = Request(scope, self._receive)

    async def _receive(self) -> dict[str, Any]:
        self.taken += 1
        return {"type": "http.request", "body": b"x" * 1000, "more_body": self.taken < self._chunks}


async def test_a_body_is_read_whole_up_to_the_limit() -> None:
    assert len(await read_body(Sender(5).request, max_bytes=5000)) == 5000


async def test_a_body_too_large_is_not_read_to_its_end() -> None:
    sender = Sender(1_000_000)
    with pytest.raises(Problem) as caught:
        await read_body(sender.request, max_bytes=4999)
    assert caught.value.code == "body-too-large"
    assert sender.taken == 5


@pytest.mark.parametrize("length", ["5000", "10485760", "9" * 30])
async def test_a_body_that_says_it_is_too_large_is_not_read_at_all(length: str) -> None:
    sender = Sender(5, {"content-length": length})
    with pytest.raises(Problem) as caught:
        await read_body(sender.request, max_bytes=4999)
    assert caught.value.code == "body-too-large"
    assert sender.taken == 0


async def test_a_content_length_that_lies_does_not_help() -> None:
    for length in ("1", "-1", "x", "²"):
        with pytest.raises(Problem):
            await read_body(Sender(5, {"content-length": length}).request, max_bytes=4999)


async def test_the_limit_is_the_services_setting() -> None:
    sender = Sender(5)
    sender.request.scope["app"] = SimpleNamespace(state=SimpleNamespace(settings=SimpleNamespace(body_max_bytes=4999)))
    with pytest.raises(Problem):
        await read_body(sender.request)


# --- routes -------------------------------------------------------------------------------------------------


async def post(request: Request) -> Response:
    return json_response(await json_body(request, Talk), 201, {"Location": "/talk/1"})


async def get(request: Request) -> Response:
    if request.path_params["id"] == "bug":
        raise ZeroDivisionError("secret")
    return json_response({"id": path_uuid(request, "id")})


async def listed(request: Request) -> Response:
    return json_response({"limit": limit(request), "after": after(request)})


ROUTES = [
    Route("POST", "/talk", post, "Create", request=Talk),
    Route("GET", "/talk", listed, "List"),
    Route("GET", "/talk/{id}", get, "Read"),
    Route("DELETE", "/talk/{id}", get, "Delete"),
    Route("PUT", "/event/{event}/attendance/{author}", post, "Attend"),
]


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=starlette_routes(ROUTES), exception_handlers={HTTPException: on_http_exception})
    app.router.redirect_slashes = False
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        yield client


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "image/png", None])
async def test_a_body_is_json_whatever_its_content_type(client: httpx.AsyncClient, kind: str | None) -> None:
    headers = {} if kind is None else {"content-type": kind}
    response = await client.post("/talk", content=b'{"title": "a"}', headers=headers)
    assert (response.status_code, response.json()["title"]) == (201, "a")
    assert response.headers["location"] == "/talk/1"
    assert response.headers["content-type"] == "application/json"
    assert int(response.headers["content-length"]) == len(response.content)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/talk", "GET, HEAD, POST"),
        ("TRACE", "/talk", "GET, HEAD, POST"),
        ("POST", "/talk/1", "DELETE, GET, HEAD"),
        ("FROB", "/talk/1", "DELETE, GET, HEAD"),
        ("GET", "/event/1/attendance/2", "PUT"),
        ("HEAD", "/event/1/attendance/2", "PUT"),
        ("OPTIONS", "/event/1/attendance/2", "PUT"),
    ],
)
async def test_a_wrong_method_is_told_all_right_ones(
    client: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    response = await client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allow)
    assert method == "HEAD" or response.json()["code"] == "method-not-allowed"


@pytest.mark.parametrize("path", ["/", "/talks", "/talk/", f"/talk/{ID}/", "/talk/a/b", "//talk", "/talk/%2f", "/%00"])
async def test_a_wrong_path_is_a_problem(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "no-such-path")
    assert response.headers["content-type"] == "application/problem+json"


async def test_get_serves_head(client: httpx.AsyncClient) -> None:
    assert (await client.head("/talk")).status_code == 200


async def test_a_bug_is_an_internal_problem_without_its_text(client: httpx.AsyncClient) -> None:
    response = await client.get("/talk/bug")
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "secret" not in response.text


def test_one_route_declared_twice_is_a_bug_of_ours() -> None:
    with pytest.raises(ValueError, match="GET /talk is declared twice"):
        starlette_routes([*ROUTES, Route("GET", "/talk", get, "Again")])


def test_an_endpoint_tells_its_template() -> None:
    assert [route.path for route in starlette_routes(ROUTES)] == [
        "/talk",
        "/talk/{id}",
        "/event/{event}/attendance/{author}",
    ]


# --- the path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [str(ID), str(ID).upper()])
async def test_a_uuid_in_the_path_may_be_in_either_case(client: httpx.AsyncClient, text: str) -> None:
    assert (await client.get(f"/talk/{text}")).json() == {"id": str(ID)}


@pytest.mark.parametrize(
    "text",
    ["abc", "1", "-", ID.hex, "{" + str(ID) + "}", f"urn:uuid:{ID}", f"{ID}0", f" {ID}", f"{ID}%0A", str(ID)[:-1] + "g",
     str(ID).replace("-", "_"), "0" * 36, "٣" * 36, "%00", "..%5c", "x" * 5000],
)  # fmt: skip
async def test_what_is_not_a_uuid_is_named(client: httpx.AsyncClient, text: str) -> None:
    response = await client.get(f"/talk/{text}")
    content = response.json()
    assert (response.status_code, content["code"], content["field"]) == (400, "not-a-uuid", "id")


# --- the query ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("query", "expected"), [("", 50), ("limit=1", 1), ("limit=500", 500), ("limt=7", 50)])
async def test_the_limit(client: httpx.AsyncClient, query: str, expected: int) -> None:
    assert (await client.get(f"/talk?{query}")).json()["limit"] == expected


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=501", "limit=-1", "limit=", "limit=abc", "limit=1.0", "limit=1e2", "limit=+5", "limit=%205",
     "limit=05", "limit=1_0", "limit=٣", "limit=" + "9" * 5000, "limit=1&limit=2", "limit=null", "limit=%00"],
)  # fmt: skip
async def test_a_bad_limit_is_named(client: httpx.AsyncClient, query: str) -> None:
    response = await client.get(f"/talk?{query}")
    content = response.json()
    assert (response.status_code, content["code"], content["field"]) == (400, "invalid-query", "limit")


@settings(deadline=None)
@given(st.uuids())
def test_a_cursor_comes_back_as_the_id(id: UUID) -> None:
    request = Request({"type": "http", "query_string": f"after={cursor(id)}".encode(), "headers": []})
    assert after(request) == id


@settings(deadline=None)
@given(st.from_regex(AFTER.type.__metadata__[0].pattern, fullmatch=True).filter(lambda text: text[-1] != "\n"))
def test_everything_that_the_schema_calls_a_cursor_is_one(text: str) -> None:
    request = Request({"type": "http", "query_string": f"after={text}".encode(), "headers": []})
    found = after(request)
    assert found is not None
    assert cursor(found) == text


@pytest.mark.parametrize("bad", ["", "x", str(ID), "A" * 21 + "B", "A" * 23, "A" * 20 + "%2B" + "A", "%00", "A" * 9000])
async def test_a_bad_cursor_is_named(client: httpx.AsyncClient, bad: str) -> None:
    response = await client.get(f"/talk?after={bad}")
    content = response.json()
    assert (response.status_code, content["code"], content["field"]) == (400, "invalid-query", "after")


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (bool, "true", True),
        (bool, "false", False),
        (bool, "1", None),
        (bool, "True", None),
        (UUID, str(ID), ID),
        (UUID, ID.hex, None),
        (int, "-3", -3),
        (int, "9" * 19, None),
        (str, "a%20b", "a b"),
        (str, "%00", None),
        (Annotated[str, Meta(max_length=2)], "abc", None),
        (datetime, "2026-06-01T12:00:00%2B02:00", datetime(2026, 6, 1, 10, tzinfo=UTC)),
        (datetime, "0001-01-01T00:00:00%2B21:40", datetime.min.replace(tzinfo=UTC)),
        (datetime, "9999-12-31T23:59:59-00:01", datetime.max.replace(tzinfo=UTC)),
        (datetime, "10000-01-01T00:00:00Z", None),
        (Annotated[datetime, Meta(tz=True)], "2026-06-01T12:00:00", None),
    ],
)
def test_a_query_value_has_its_declared_type(kind: Any, text: str, expected: Any) -> None:
    request = Request({"type": "http", "query_string": f"x={text}".encode(), "headers": []})
    parameter = QueryParameter("x", "An x.", kind)
    if expected is not None:
        assert query_value(request, parameter) == expected
    else:
        with pytest.raises(Problem) as caught:
            query_value(request, parameter)
        assert (caught.value.code, caught.value.field) == ("invalid-query", "x")


# --- Prefer -------------------------------------------------------------------------------------------------


def preferred(*headers: str) -> tuple[bool, bool, int | None]:
    raw = [(b"prefer", header.encode("latin-1")) for header in headers]
    found = preferences(Request({"type": "http", "headers": raw, "query_string": b""}))
    return found.respond_async, found.strict, found.wait_s


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ((), (False, False, None)),
        (("respond-async",), (True, False, None)),
        (("Respond-Async, wait=10",), (True, False, 10)),
        (("handling=strict",), (False, True, None)),
        (("handling = Strict ; foo=bar",), (False, True, None)),
        (('handling="strict"',), (False, True, None)),
        (("handling=lenient, handling=strict",), (False, False, None)),
        (("respond-async", "handling=strict"), (True, True, None)),
        (('foo="a, respond-async"; x, wait="5"',), (False, False, 5)),
        (("wait=abc, return=minimal",), (False, False, None)),
        (("wait=-1",), (False, False, None)),
        (("wait=9999999999",), (False, False, None)),
        ((",,;;==\xff",), (False, False, None)),
        (("",), (False, False, None)),
    ],
)
def test_prefer_is_read_as_rfc_7240_says(headers: tuple[str, ...], expected: tuple[bool, bool, int | None]) -> None:
    assert preferred(*headers) == expected


def test_a_hostile_prefer_header_takes_no_time() -> None:
    for header in (" " * 60_000, '"' * 60_000, "a=" * 30_000, 'a="' + "," * 60_000, "a " * 30_000):
        begun_s = time.process_time()
        preferred(header)
        assert time.process_time() - begun_s < 1.0, header[:4]


# --- answers ------------------------------------------------------------------------------------------------


def test_an_answer_is_encoded_with_ids_and_times() -> None:
    response = json_response({"id": ID, "at": datetime(2026, 5, 1, tzinfo=UTC), "title": "ß"}, 201, {"ETag": '"1"'})
    assert bytes(response.body) == f'{{"id":"{ID}","at":"2026-05-01T00:00:00Z","title":"ß"}}'.encode()
    assert (response.status_code, response.headers["etag"]) == (201, '"1"')


def test_what_is_encoded_already_is_not_encoded_again() -> None:
    response = encoded_response(b"[1]")
    assert bytes(response.body) == b"[1]"
    assert response.headers["content-length"] == "3"


def test_an_answer_costs_little() -> None:
    """At most 10 µs beside the encoding, of which this machine may take thrice as much on a bad day."""
    headers, best_s = {"ETag": '"1"'}, 1.0
    for _ in range(20):
        begun_s = time.perf_counter()
        for _ in range(200):
            json_response(None, 200, headers)
        best_s = min(best_s, (time.perf_counter() - begun_s) / 200)
    assert best_s < 30e-6


def test_patterns_mean_what_they_are_called() -> None:
    class Text(Struct):
        visible: Annotated[str, Meta(pattern=VISIBLE)] = "x"
        clean: Annotated[str, Meta(pattern=NO_NUL)] = ""

    shuffled = list("a \t\n\u00a0")
    random.Random(1).shuffle(shuffled)
    assert parse_body(json.dumps({"visible": "".join(shuffled), "clean": " \n"}).encode(), Text)
    assert refused('{"visible": " \\u2028"}', Text).field == "visible"
