"""HTTP as the services see it: a declared `Route`, a body that has become a struct, an answer from one.

A `Route` is declared once; the Starlette routes (here) and the OpenAPI document (`openapi.py`) both come from
it, so what is documented is what runs. A handler takes the request, and returns the answer or raises a
Problem.

What the OpenAPI document allows of a path, a query or a header is accepted, and what it forbids is refused,
by name. Parameters that a route does not declare are ignored.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import MINYEAR, UTC, datetime
from http import HTTPStatus
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
import starlette.routing
from msgspec import Meta, Struct
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tally.chassis import database_faults
from tally.chassis.body import NO_NUL, flaw, phrase
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.problems import Problem, problem_response, unexpected_response

Handler = Callable[[Request], Awaitable[Response]]

#: RFC 9110, 9.2.1: what does not ask for a change.
SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))

#: Set in a scope by an answer that goes on for as long as somebody listens: it is not late, and nobody waits for it.
LASTING: Final = "tally.lasting"
#: Set in a scope: seconds for which an answer was held back because its caller asked for it; no part of its duration.
HELD_BACK_S: Final = "tally.held_back_s"

#: Set in a scope by a question that an agent asks all the time: that it was answered well is not worth a line.
BACKGROUND: Final = "tally.background"

LIMIT_DEFAULT: Final = 50
LIMIT_MAX: Final = 500

_UUID_PATTERN: Final = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
_CURSOR_PATTERN: Final = r"^[A-Za-z0-9_-]{21}[AQgw]$"


# --- declarations -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueryParameter:
    """A query parameter: `type` is bool, int, str, UUID, datetime, or one of them `Annotated` with bounds."""

    name: str
    description: str
    type: Any = Annotated[str, Meta(pattern=NO_NUL)]


@dataclass(frozen=True, slots=True)
class HeaderParameter:
    """A request header that means something to the route."""

    name: str
    description: str
    type: Any = str


@dataclass(frozen=True, slots=True)
class Route:
    """One method of one path: what runs, what goes in, and everything that can come out.

    `status` and `response` are the usual success; `also` holds the others (`{200: Attendance}` beside a 201).
    `sends` names the response headers of a success, out of `openapi.RESPONSE_HEADERS`.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    request: Any = None
    response: Any = None
    status: int = HTTPStatus.OK
    problems: tuple[str, ...] = ()
    query: tuple[QueryParameter, ...] = ()
    headers: tuple[HeaderParameter, ...] = ()
    tags: tuple[str, ...] = ()
    also: Mapping[int, Any] | None = None
    sends: tuple[str, ...] = ()


LIMIT: Final = QueryParameter(
    "limit",
    f"How many items at most; {LIMIT_DEFAULT} if it is not given.",
    Annotated[int, Meta(ge=1, le=LIMIT_MAX)],
)
AFTER: Final = QueryParameter(
    "after",
    "Where to go on: the `next` of the page before.",
    Annotated[str, Meta(pattern=_CURSOR_PATTERN)],
)
PREFER: Final = HeaderParameter(
    "Prefer", "RFC 7240: `respond-async`, `handling=strict`, `wait=<seconds>`; what is not known is ignored."
)


# --- serving ------------------------------------------------------------------------------------------------


def starlette_routes(routes: Sequence[Route]) -> list[starlette.routing.Route]:
    """One Starlette route per path, in order of declaration, each of which knows all methods of its path."""
    handlers: dict[str, dict[str, Handler]] = {}
    for route in routes:
        methods = handlers.setdefault(route.path, {})
        if route.method in methods:
            raise ValueError(f"{route.method} {route.path} is declared twice")
        methods[route.method] = route.handler
    return [starlette.routing.Route(path, Endpoint(path, methods)) for path, methods in handlers.items()]


class Endpoint:
    """A path with its methods, as an ASGI application.

    Starlette's own routes know one declaration each, so their 405 would name only the methods of the first.
    `path` is the template (`/author/{id}`): what a metric or a span may be labelled with.
    """

    def __init__(self, path: str, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self.__name__ = path
        self._handlers = dict(handlers)
        if "GET" in handlers:
            self._handlers.setdefault("HEAD", handlers["GET"])
        self._allow = ", ".join(sorted(self._handlers))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._answer(request)
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        handler = self._handlers.get(request.method)
        if handler is None:
            problem = Problem("method-not-allowed", f"{self.path} supports {self._allow}.")
            return problem_response(problem, request, {"Allow": self._allow})
        try:
            return await handler(request)
        except Problem as problem:
            return problem_response(problem, request)
        except DatabaseFault as fault:
            return problem_response(database_faults.problem(fault, reading=request.method in SAFE), request)
        except ClientDisconnect:
            return problem_response(Problem("bad-request", "The client left before its body had come."), request)
        except Exception as error:
            return unexpected_response(error, request)

    def __repr__(self) -> str:
        return f"<Endpoint {self._allow} {self.path}>"


# --- answers ------------------------------------------------------------------------------------------------

_encode: Final = msgspec.json.Encoder().encode
_JSON: Final = (b"content-type", b"application/json")


class _Encoded(Response):
    """An answer whose body is JSON already. Starlette looks at each header twice; this is the hot path."""

    def __init__(self, content: bytes, status: int, headers: Mapping[str, str] | None) -> None:
        self.status_code = status
        self.background = None
        self.body = content
        self.raw_headers = [_JSON, (b"content-length", b"%d" % len(content))]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]


def json_response(obj: Any, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """`obj` as JSON: structs, dicts, lists, UUIDs, datetimes (RFC 3339)."""
    return _Encoded(_encode(obj), status, headers)


def encoded_response(content: bytes, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
    """The same where `content` is JSON already."""
    return _Encoded(content, status, headers)


# --- the path -----------------------------------------------------------------------------------------------

_uuid_match: Final = re.compile(_UUID_PATTERN.removesuffix("$") + r"\Z").match


def path_uuid(request: Request, name: str) -> UUID:
    """The path parameter as a UUID. Only the form with hyphens, so that one thing has one address."""
    text: str = request.path_params[name]
    try:
        # (A third of what the pattern and UUID(text) take; it knows the form without hyphens, too.)
        if len(text) == _UUID_LENGTH:
            return msgspec.convert(text, UUID)
    except msgspec.ValidationError:
        pass
    raise Problem("not-a-uuid", f'The "{name}" in the path is not a UUID such as {_EXAMPLE_UUID}.', field=name)


_UUID_LENGTH: Final = 36
_EXAMPLE_UUID: Final = "01890a5d-ac96-774b-bcce-b302099a8057"


# --- the query and headers ----------------------------------------------------------------------------------


def query_value(request: Request, parameter: QueryParameter) -> Any:
    """The parameter's value as its declared type; None where it is not given."""
    given = request.query_params.getlist(parameter.name)
    if not given:
        return None
    if len(given) > 1:
        raise _invalid_query(parameter.name, "is given more than once")
    try:
        value = _read_query(given[0], parameter.type)
    except msgspec.ValidationError as error:
        raise _invalid_query(parameter.name, phrase(str(error))) from error
    if wrong := flaw(value):
        raise _invalid_query(parameter.name, wrong)
    return value


def limit(request: Request) -> int:
    """`?limit=`: 1 to 500, 50 if it is not given."""
    value: int | None = query_value(request, LIMIT)
    return LIMIT_DEFAULT if value is None else value


def after(request: Request) -> UUID | None:
    """`?after=`: the id that the page before ended with; None for the first page."""
    text: str | None = query_value(request, AFTER)
    return None if text is None else UUID(bytes=base64.urlsafe_b64decode(text + "=="))


def cursor(last: UUID) -> str:
    """The cursor of the page that follows `last`, opaque to clients.

    Every string of the pattern of `after` is a cursor: what the OpenAPI document allows is not refused.
    """
    return base64.urlsafe_b64encode(last.bytes).rstrip(b"=").decode("ascii")


def link(request: Request, next: str | None) -> dict[str, str]:
    """Where the next page is, as a header."""
    if next is None:
        return {}
    url = request.url.include_query_params(after=next)
    return {"Link": f'<{url.path}?{url.query}>; rel="next"'}


class Preferences(Struct, frozen=True):
    """The preferences of RFC 7240 that Tally knows."""

    respond_async: bool = False
    strict: bool = False
    wait_s: int | None = None


_NO_PREFERENCES: Final = Preferences()
# One member of the list: up to a comma that stands outside quotes. Nothing follows it, so it never tries twice.
_MEMBER: Final = re.compile(r'(?:[^",]|"[^"]*"?)+')


def preferences(request: Request) -> Preferences:
    """What the `Prefer` headers ask for: the first of each preference counts, unknown ones are ignored."""
    if all(name != b"prefer" for name, _ in request.scope["headers"]):
        return _NO_PREFERENCES
    asked: dict[str, str] = {}
    for header in request.headers.getlist("prefer"):
        for member in _MEMBER.findall(header):
            name, _, value = member.partition(";")[0].partition("=")
            asked.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait = asked.get("wait", "")
    return Preferences(
        respond_async="respond-async" in asked,
        strict=asked.get("handling", "").lower() == "strict",
        wait_s=int(wait) if re.fullmatch(r"[0-9]{1,6}", wait) else None,
    )


def _read_query(text: str, kind: Any) -> Any:
    """`text` as a `kind`. msgspec's lax mode would take 1e3 for an integer, which the schema forbids."""
    base = getattr(kind, "__origin__", kind)
    if base is int:
        if not re.fullmatch(r"0|-?[1-9][0-9]{0,17}", text):
            raise msgspec.ValidationError("Expected `int`")
        return msgspec.convert(int(text), kind)
    if base is bool:
        if text not in ("true", "false"):
            raise msgspec.ValidationError("Expected `true` or `false`")
        return text == "true"
    if base is UUID:
        if not _uuid_match(text):
            raise msgspec.ValidationError("Expected `uuid`")
        return UUID(text)
    value = msgspec.convert(text, kind)
    return _in_utc(value) if isinstance(value, datetime) else value


def _in_utc(moment: datetime) -> datetime:
    """The moment in UTC. RFC 3339 has a few more hours at both ends of the calendar than Python: nothing lies there."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        return (datetime.min if moment.year == MINYEAR else datetime.max).replace(tzinfo=UTC)


def _invalid_query(name: str, what: str) -> Problem:
    return Problem("invalid-query", f'The query parameter "{name}" {what}.', field=name)
