"""The document says what the routes do: no more, no less, and the page that shows it needs no internet."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
from msgspec import UNSET, Meta, Struct, UnsetType
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

import tally.chassis
from tally.chassis import docs, openapi
from tally.chassis.body import VISIBLE
from tally.chassis.http import (
    AFTER,
    LIMIT,
    PREFER,
    HeaderParameter,
    QueryParameter,
    Route,
    json_response,
    starlette_routes,
)
from tally.chassis.problems import CODES, Problem, problem_response


class NewAuthor(Struct):
    full_name: Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE)]
    email: str | None = None


class AuthorPatch(Struct):
    full_name: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET


class Author(Struct):
    id: UUID
    full_name: str
    version: int


class Authors(Struct):
    items: list[Author]
    next: str | None


async def nothing(request: Request) -> Response:
    return json_response(None)


KEY = HeaderParameter("Idempotency-Key", "A key.", Annotated[str, Meta(max_length=255)])
ROUTES = [
    Route(
        "POST", "/author", nothing, "Create an author", request=NewAuthor, response=Author, status=201,
        problems=("already-exists", "service-unavailable"), headers=(KEY,),
        sends=("Location", "ETag"), tags=("author",),
    ),
    Route("GET", "/author", nothing, "List", response=Authors, query=(LIMIT, AFTER, QueryParameter("x", "X.", UUID))),
    Route("GET", "/author/{id}", nothing, "Read", response=Author, also={304: None}, problems=("author-not-found",)),
    Route("PATCH", "/author/{id}", nothing, "Change", request=AuthorPatch, response=Author),
    Route("DELETE", "/author/{id}", nothing, "Delete", status=204, problems=("unauthenticated",)),
    Route(
        "PUT", "/event/{event}/attendance/{author}", nothing, "Attend", response=Author, status=201,
        also={200: Author, 202: None}, headers=(PREFER,),
    ),
]  # fmt: skip
DOCUMENT = openapi.document("Author", "1.2.3", ROUTES)


def operation(method: str, path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path][method]
    return found


def resolved(schema: Any) -> Any:
    """`schema` with each reference replaced by what it names."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return resolved(DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
        return {key: resolved(value) for key, value in schema.items()}
    return [resolved(item) for item in schema] if isinstance(schema, list) else schema


def test_the_document_is_openapi_3_1() -> None:
    assert DOCUMENT["openapi"] == "3.1.0"
    assert DOCUMENT["info"] == {"title": "Author", "version": "1.2.3", "description": openapi.INTRODUCTION}
    assert list(DOCUMENT["paths"]) == ["/author", "/author/{id}", "/event/{event}/attendance/{author}"]
    json.dumps(DOCUMENT)


def test_the_same_routes_give_the_same_document() -> None:
    again = openapi.document("Author", "1.2.3", ROUTES)
    assert json.dumps(again) == json.dumps(DOCUMENT)


def test_every_schema_is_a_valid_json_schema() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(resolved(schema))


def test_every_reference_leads_somewhere() -> None:
    names = re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(DOCUMENT))
    assert set(names) <= set(DOCUMENT["components"]["schemas"])
    assert set(DOCUMENT["components"]["schemas"]) == {
        "NewAuthor", "AuthorPatch", "Author", "Authors", "Problem", "FieldError",
    }  # fmt: skip


def test_operation_ids_are_unique() -> None:
    ids = [one["operationId"] for methods in DOCUMENT["paths"].values() for one in methods.values()]
    assert ids[0] == "post_author"
    assert "put_event_event_attendance_author" in ids
    assert len(ids) == len(set(ids)) == len(ROUTES)


def test_a_body_is_required_and_ignores_unknown_fields() -> None:
    body = operation("post", "/author")["requestBody"]
    assert body["required"] is True
    schema = resolved(body["content"]["application/json"]["schema"])
    assert schema["required"] == ["full_name"]
    assert "additionalProperties" not in schema
    assert schema["properties"]["full_name"]["pattern"] == VISIBLE


@pytest.mark.parametrize(
    ("value", "allowed"),
    [
        ("Alan", True),
        ("a\0b", False),
        (" \n", False),
        ("\ufeff", False),
        ("", False),
        ("x" * 201, False),
        ("x\n", True),
    ],
)
def test_the_schema_of_a_name_excludes_what_is_refused(value: str, allowed: bool) -> None:
    schema = resolved(operation("post", "/author")["requestBody"]["content"]["application/json"]["schema"])
    assert jsonschema.Draft202012Validator(schema).is_valid({"full_name": value}) == allowed


def test_a_patch_requires_nothing_and_knows_no_null() -> None:
    schema = resolved(operation("patch", "/author/{id}")["requestBody"]["content"]["application/json"]["schema"])
    assert "required" not in schema or schema["required"] == []
    assert schema["properties"]["full_name"] == {"type": "string", "minLength": 1}


def test_path_parameters_are_uuids() -> None:
    parameters = operation("put", "/event/{event}/attendance/{author}")["parameters"]
    path = [(p["name"], p["required"], p["schema"]) for p in parameters if p["in"] == "path"]
    assert path == [(name, True, {"type": "string", "format": "uuid"}) for name in ("event", "author")]


def test_query_and_header_parameters_have_their_bounds() -> None:
    query = {p["name"]: p for p in operation("get", "/author")["parameters"]}
    assert query["limit"]["schema"] == {"type": "integer", "minimum": 1, "maximum": 500}
    assert query["after"]["in"] == "query"
    assert query["x"]["schema"]["format"] == "uuid"
    [header] = operation("post", "/author")["parameters"]
    assert (header["name"], header["in"], header["schema"]["maxLength"]) == ("Idempotency-Key", "header", 255)


def test_a_success_has_its_schema_and_headers() -> None:
    created = operation("post", "/author")["responses"]["201"]
    assert created["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Author"}
    assert set(created["headers"]) == {"Location", "ETag"}
    assert "content" not in operation("delete", "/author/{id}")["responses"]["204"]
    assert "304" in operation("get", "/author/{id}")["responses"]
    assert {"200", "201", "202"} <= set(operation("put", "/event/{event}/attendance/{author}")["responses"])


def codes(method: str, path: str, status: int) -> set[str]:
    response = operation(method, path)["responses"][str(status)]
    found: list[str] = response["content"]["application/problem+json"]["schema"]["allOf"][1]["properties"]["code"][
        "enum"
    ]
    return set(found)


def test_the_problems_that_the_chassis_answers_by_itself_are_documented() -> None:
    assert {"not-json", "not-an-object", "invalid-field", "missing-field", "body-too-deep"} <= codes(
        "post", "/author", 400
    )
    assert codes("post", "/author", 413) == {"body-too-large"}
    assert "not-a-uuid" in codes("get", "/author/{id}", 400)
    assert "not-a-uuid" not in codes("get", "/author", 400)
    assert "invalid-query" in codes("get", "/author", 400)
    assert "413" not in operation("get", "/author")["responses"]
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            assert codes(method, path, 405) == {"method-not-allowed"}
            assert "no-such-path" in codes(method, path, 404)


def test_a_declared_problem_is_at_its_status() -> None:
    assert codes("get", "/author/{id}", 404) == {"author-not-found", "no-such-path"}
    assert codes("post", "/author", 409) == {"already-exists"}
    assert "Retry-After" in operation("post", "/author")["responses"]["503"]["headers"]
    assert "Allow" in operation("get", "/author")["responses"]["405"]["headers"]
    assert "WWW-Authenticate" in operation("delete", "/author/{id}")["responses"]["401"]["headers"]


def test_a_rendered_problem_has_the_documented_schema() -> None:
    scope = {"type": "http", "method": "GET", "path": "/author/1", "headers": []}
    for code in CODES:
        problem = Problem(code, "No.", field="x", operation="1", service="author", retry_after_s=1)
        content = json.loads(bytes(problem_response(problem, Request(scope)).body))
        schema = resolved(DOCUMENT["components"]["schemas"]["Problem"])
        jsonschema.validate(content, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | {"code": "no-such-code"}, schema)


# --- the page -----------------------------------------------------------------------------------------------

ASSETS = Path(tally.chassis.__path__[0]) / "docs_assets"


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = Starlette(routes=starlette_routes(docs.routes(DOCUMENT)))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as client:
        yield client


async def test_the_document_is_served(client: httpx.AsyncClient) -> None:
    response = await client.get("/openapi.json")
    assert response.headers["content-type"] == "application/json"
    assert response.json() == json.loads(json.dumps(DOCUMENT))


async def test_the_page_loads_only_what_is_served_here(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert len(addresses) == 5
    for address in addresses:
        assert "//" not in address
        response = await client.get("/" + address)
        assert response.status_code == 200, address


async def test_a_browser_is_sent_on_from_the_root_and_a_program_is_not(client: httpx.AsyncClient) -> None:
    sent = await client.get("/", headers={"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (sent.status_code, sent.headers["location"], sent.headers["vary"]) == (307, "/docs", "Accept")
    for accept in ("*/*", "application/json"):
        assert (await client.get("/", headers={"Accept": accept})).json()["code"] == "no-such-path"


async def test_the_policy_of_the_page_lets_nothing_external_load(client: httpx.AsyncClient) -> None:
    policy = (await client.get("/docs")).headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    sources = {source for directive in policy.split(";") for source in directive.split()[1:]}
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert "script-src 'self';" in policy
    assert not re.search(r"<script(?! src=)|\son\w+=|<style|style=", (ASSETS / "index.html").read_text())


async def test_the_page_itself_names_no_address_outside(client: httpx.AsyncClient) -> None:
    for name in ("index.html", "start.js"):
        assert "://" not in (ASSETS / name).read_text()
    assert not re.findall(r"url\(\s*[\"']?(?!data:)[^\"')]+|@import", (ASSETS / "swagger-ui.css").read_text())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("swagger-ui-bundle.js", "text/javascript"), ("swagger-ui.css", "text/css"), ("favicon.svg", "image/svg+xml")],
)
async def test_each_file_has_its_type(client: httpx.AsyncClient, name: str, kind: str) -> None:
    response = await client.get(f"/docs/{name}")
    assert response.headers["content-type"].startswith(kind)
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (ASSETS / name).read_bytes()


async def test_a_browser_finds_an_icon(client: httpx.AsyncClient) -> None:
    assert (await client.get("/favicon.ico")).headers["content-type"] == "image/svg+xml"


@pytest.mark.parametrize("name", ["index.html", "..%2fdocs.py", "README.md", "x", "%00", ".."])
async def test_no_other_file_is_served(client: httpx.AsyncClient, name: str) -> None:
    assert (await client.get(f"/docs/{name}")).status_code == 404


def test_the_licence_of_what_is_vendored_is_there() -> None:
    assert "Apache License" in (ASSETS / "LICENSE").read_text()
    assert "SmartBear" in (ASSETS / "NOTICE").read_text()
