"""The OpenAPI 3.1 document, made from the same `Route` declarations that are served.

The schemas are those of the structs. They do not forbid additional properties, because unknown fields are
ignored by design. Beyond what a route declares, each operation has the problems that the chassis answers by
itself: the body's, the path's and the query's, and those of a wrong path or method.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from tally.chassis.http import HeaderParameter, QueryParameter, Route
from tally.chassis.problems import CODES, CONTENT_TYPE, ProblemBody

Json = dict[str, Any]

_REF: Final = "#/components/schemas/{name}"
_PROBLEM: Final = {"$ref": _REF.format(name="Problem")}
_ALWAYS: Final = ("bad-request", "no-such-path", "method-not-allowed", "internal")
_OF_BODY: Final = (
    "not-json",
    "not-an-object",
    "invalid-field",
    "missing-field",
    "body-too-deep",
    "body-too-large",
)
_PATH_PARAMETER: Final = re.compile(r"{(\w+)}")

RESPONSE_HEADERS: Final[dict[str, Json]] = {
    "Allow": {"description": "The methods that the path supports.", "schema": {"type": "string"}},
    "ETag": {"description": "Its version, for If-Match and If-None-Match.", "schema": {"type": "string"}},
    "Link": {
        "description": 'The next page, as rel="next"; absent on the last.',
        "schema": {"type": "string"},
    },
    "Location": {"description": "Its address.", "schema": {"type": "string", "format": "uri-reference"}},
    "Preference-Applied": {"description": "The preference that was honoured.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer", "minimum": 0}},
    "WWW-Authenticate": {"description": "What to authenticate by.", "schema": {"type": "string"}},
}

#: What every API of ours has in common.
INTRODUCTION: Final = """\
Every request that changes something ends in one of three ways: done (2xx); refused (4xx, 503), and nothing is recorded,
now or later; or unknown (504 `outcome-unknown`, or no answer), with the address that will tell.

Every error is `application/problem+json` (RFC 9457) with a stable `code`; `retryable` says that the same request may
succeed later, and `Retry-After` when to try. `X-Deadline-Ms` shortens the time within which an answer comes. Fields and
query parameters that are not known are ignored."""


def document(title: str, version: str, routes: Sequence[Route]) -> Json:
    """The document, ready to be encoded as JSON; the same routes give the same document, byte for byte."""
    kinds = list(dict.fromkeys(_kinds(routes)))
    schemas, components = msgspec.json.schema_components([*kinds, ProblemBody], ref_template=_REF)
    for schema in components.values():
        if "description" in schema:  # a docstring; without its indentation, which Python itself takes away from 3.13 on
            schema["description"] = inspect.cleandoc(schema["description"])
    components["Problem"] = _problem_schema(components.pop("ProblemBody"))
    schema_of = dict(zip(kinds, schemas, strict=False))
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version, "description": INTRODUCTION},
        "paths": paths,
        "components": {"schemas": dict(sorted(components.items()))},
    }


def _kinds(routes: Iterable[Route]) -> Iterator[Any]:
    """Every type that needs a schema."""
    for route in routes:
        answers = [route.response, *(route.also or {}).values()]
        yield from (kind for kind in [route.request, *answers] if kind is not None)
        yield from (parameter.type for parameter in route.query)
        yield from (parameter.type for parameter in route.headers)


def _problem_schema(schema: Json) -> Json:
    schema["title"] = "Problem"
    schema["description"] = "RFC 9457, with a stable `code`, and whether the same request may succeed later."
    schema["properties"]["code"]["enum"] = list(CODES)
    return schema


def _operation(route: Route, schema_of: dict[Any, Json]) -> Json:
    operation: Json = {"summary": route.summary, "operationId": _operation_id(route)}
    if route.tags:
        operation["tags"] = list(route.tags)
    if parameters := list(_parameters(route, schema_of)):
        operation["parameters"] = parameters
    if route.request is not None:
        content = {"application/json": {"schema": schema_of[route.request]}}
        operation["requestBody"] = {"required": True, "content": content}
    operation["responses"] = _responses(route, schema_of)
    return operation


def _operation_id(route: Route) -> str:
    return "_".join([route.method.lower(), *re.findall(r"\w+", route.path)])


def _parameters(route: Route, schema_of: dict[Any, Json]) -> Iterator[Json]:
    for name in _PATH_PARAMETER.findall(route.path):
        yield {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
    yield from (_parameter("query", parameter, schema_of) for parameter in route.query)
    yield from (_parameter("header", parameter, schema_of) for parameter in route.headers)


def _parameter(place: str, parameter: QueryParameter | HeaderParameter, schema_of: dict[Any, Json]) -> Json:
    schema = schema_of[parameter.type]
    return {"name": parameter.name, "in": place, "description": parameter.description, "schema": schema}


def _responses(route: Route, schema_of: dict[Any, Json]) -> Json:
    responses = {
        str(int(status)): _success(status, kind, route, schema_of)
        for status, kind in {route.status: route.response, **(route.also or {})}.items()
    }
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*route.problems, *_implied(route))):
        by_status.setdefault(CODES[code].status, []).append(code)
    responses |= {str(status): _failure(codes) for status, codes in by_status.items()}
    return dict(sorted(responses.items()))


def _implied(route: Route) -> Iterator[str]:
    if _PATH_PARAMETER.search(route.path):
        yield "not-a-uuid"
    if route.query:
        yield "invalid-query"
    if route.request is not None:
        yield from _OF_BODY
    yield from _ALWAYS


def _success(status: int, kind: Any, route: Route, schema_of: dict[Any, Json]) -> Json:
    response: Json = {"description": HTTPStatus(status).phrase}
    if kind is not None:
        response["content"] = {"application/json": {"schema": schema_of[kind]}}
    if route.sends:
        response["headers"] = {name: RESPONSE_HEADERS[name] for name in route.sends}
    return response


def _failure(codes: Sequence[str]) -> Json:
    """One status, and the problems that it may be."""
    response: Json = {
        "description": "; ".join(f"`{code}`: {CODES[code].title}" for code in codes),
        "content": {CONTENT_TYPE: {"schema": {"allOf": [_PROBLEM, {"properties": {"code": {"enum": list(codes)}}}]}}},
    }
    if names := _problem_headers(codes):
        response["headers"] = {name: RESPONSE_HEADERS[name] for name in names}
    return response


def _problem_headers(codes: Sequence[str]) -> list[str]:
    names = ["Retry-After"] if any(CODES[code].retry_after_s is not None for code in codes) else []
    names += ["Allow"] if "method-not-allowed" in codes else []
    return names + (["WWW-Authenticate"] if "unauthenticated" in codes else [])
