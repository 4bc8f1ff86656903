"""Every error that a caller can see, as one table, and how one is written (RFC 9457, `problem+json`).

Whoever notices that something cannot be done raises `Problem(code, detail)`; what that means in HTTP stands
in `CODES` and nowhere else. A code is a promise to clients: it is never renamed, its meaning never widens.
The reference deployment's are in the table; what another entity or relationship needs besides, it declares.
`detail` is a sentence for the person who reads the answer. It must hold no SQL, no stack and no secret.

What nobody foresaw becomes `internal`: logged with its traceback here, and told to the caller without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import MappingProxyType
from typing import Final
from urllib.parse import quote
from uuid import UUID

import msgspec
import structlog
from msgspec import Struct
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context

# `type` is this plus the code. It names the problem; nothing ever fetches it.
TYPE_BASE: Final = "https://tally.dev/problems/"
CONTENT_TYPE: Final = "application/problem+json"
_INSTANCE_MAX: Final = 2000

_log = structlog.get_logger()


class Code(Struct, frozen=True):
    """What a code means; `retryable` says that the same request, unchanged, may succeed later."""

    status: int
    title: str
    retryable: bool = False
    retry_after_s: float | None = None


_codes: Final[dict[str, Code]] = {
    # The request cannot be understood.
    "bad-request": Code(400, "The request is malformed"),
    "not-json": Code(400, "The body is not JSON"),
    "not-an-object": Code(400, "The body is not a JSON object"),
    "invalid-field": Code(400, "A field's value is not allowed"),
    "missing-field": Code(400, "A required field is missing"),
    "not-a-uuid": Code(400, "An identifier is not a UUID"),
    "body-too-deep": Code(400, "The body is nested too deeply"),
    "body-too-large": Code(413, "The body is too large"),
    "invalid-query": Code(400, "A query parameter's value is not allowed"),
    "invalid-header": Code(400, "A header's value is not allowed"),
    "no-such-path": Code(404, "Nothing is at this path"),
    "method-not-allowed": Code(405, "This path does not support the method"),
    "unauthenticated": Code(401, "The request needs a valid token"),
    "forbidden": Code(403, "The token does not allow this"),
    "not-allowed-here": Code(403, "The page may not do this"),
    # It is understood, and something it speaks of does not exist.
    "not-found": Code(404, "There is no such thing"),
    "author-not-found": Code(404, "There is no such author"),
    "event-not-found": Code(404, "There is no such event"),
    "conference-not-found": Code(404, "There is no such conference"),
    "both-not-found": Code(404, "Neither side exists"),
    "attendance-not-found": Code(404, "There is no such attendance"),
    "operation-not-found": Code(404, "There is no such operation"),
    # It is in conflict with what is there.
    "event-full": Code(409, "The event has no free seat"),
    "already-exists": Code(409, "It exists already"),
    "has-dependents": Code(409, "Other things depend on it"),
    "capacity-below-taken": Code(409, "More seats are taken than this capacity"),
    "operation-ended": Code(409, "The operation has ended already"),
    "contended": Code(409, "Others are changing the same thing", retryable=True, retry_after_s=1),
    "idempotency-in-flight": Code(409, "A request with this key is in progress", retryable=True, retry_after_s=1),
    "idempotency-key-reused": Code(422, "The key was used for a different request"),
    "version-mismatch": Code(412, "It has changed since that version"),
    # It would be carried out, but not now. All but the last two mean that nothing was recorded.
    "service-unavailable": Code(503, "A service is not available", retryable=True, retry_after_s=1),
    "overloaded": Code(503, "There is more work than can be done in time", retryable=True, retry_after_s=1),
    "deadline-exceeded": Code(504, "The time for this request is over", retryable=True, retry_after_s=1),
    "outcome-unknown": Code(504, "Whether it was done is not known yet", retryable=True, retry_after_s=3),
    "internal": Code(500, "Something went wrong on our side"),
}
CODES: Final[Mapping[str, Code]] = MappingProxyType(_codes)


def declare(codes: Mapping[str, Code]) -> None:
    """Codes of this process besides the table's, before any of them is raised or documented.

    ValueError if one has another meaning already: clients could not tell the two apart.
    """
    for code, meaning in codes.items():
        if _codes.setdefault(code, meaning) != meaning:
            raise ValueError(f"the code {code} means {_codes[code]!r} already, not {meaning!r}")


class FieldError(Struct, frozen=True):
    """What is wrong with one field of the request."""

    field: str
    detail: str


class Problem(Exception):
    """An error the caller is to see. Raise it in a handler, or turn it into an answer by `problem_response`.

    `field` names what in the request is wrong (a body field, a query parameter, a header, a part of the
    path), `service` who failed, `operation` the operation whose outcome can be asked for.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        field: str | None = None,
        service: str | None = None,
        operation: str | UUID | None = None,
        retry_after_s: float | None = None,
        errors: Sequence[FieldError] = (),
    ) -> None:
        super().__init__(code, detail)
        self.meaning = CODES[code]
        self.code = code
        self.detail = detail
        self.field = field
        self.service = service
        self.operation = None if operation is None else str(operation)
        self.retry_after_s = self.meaning.retry_after_s if retry_after_s is None else retry_after_s
        self.errors = tuple(errors)

    @property
    def status(self) -> int:
        return self.meaning.status

    @property
    def title(self) -> str:
        return self.meaning.title

    @property
    def retryable(self) -> bool:
        return self.meaning.retryable

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    def __repr__(self) -> str:
        return f"<Problem {self}>"


class ProblemBody(Struct, frozen=True, omit_defaults=True):
    """A problem as JSON: the members of RFC 9457, and ours."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    retryable: bool
    field: str | None = None
    errors: tuple[FieldError, ...] = ()
    service: str | None = None
    operation: str | None = None
    operation_url: str | None = None
    trace_id: str | None = None
    request_id: str | None = None


def body(problem: Problem, path: str) -> ProblemBody:
    """What is written of `problem` as the answer to a request for `path`; ids are the current context's."""
    here = context.current()
    return ProblemBody(
        type=TYPE_BASE + problem.code,
        title=problem.title,
        status=problem.status,
        detail=problem.detail,
        instance=quote(path)[:_INSTANCE_MAX],
        code=problem.code,
        retryable=problem.retryable,
        field=problem.field,
        errors=problem.errors,
        service=problem.service,
        operation=problem.operation,
        operation_url=f"/operation/{problem.operation}" if problem.operation else None,
        trace_id=here.trace_id if here else None,
        request_id=here.request_id if here else None,
    )


def problem_response(problem: Problem, request: Request, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that says so, with `Retry-After` where waiting helps (whole seconds, rounded up)."""
    answer = dict(headers or {})
    if problem.retry_after_s is not None:
        answer["Retry-After"] = str(max(0, math.ceil(problem.retry_after_s)))
    if problem.status == HTTPStatus.UNAUTHORIZED:
        answer.setdefault("WWW-Authenticate", "Bearer")
    content = msgspec.json.encode(body(problem, request.scope["path"]))
    return Response(content, problem.status, answer, CONTENT_TYPE)


def unexpected_response(error: Exception, request: Request) -> Response:
    """Log what nobody foresaw, with its traceback, and tell the caller only that it happened."""
    _log.error("unexpected error", method=request.method, path=request.scope["path"], exc_info=error)
    return problem_response(Problem("internal", "The error has been logged under this request id."), request)


# What the framework itself raises. Anything else of it is the client's `bad-request` or our `internal`.
_OF_STATUS: Final = {
    404: "no-such-path",
    405: "method-not-allowed",
    413: "body-too-large",
    503: "service-unavailable",
}


async def on_http_exception(request: Request, error: Exception) -> Response:
    """For Starlette's own errors, whose headers (Allow) are kept."""
    assert isinstance(error, HTTPException)
    code = _OF_STATUS.get(error.status_code, "bad-request" if error.status_code < 500 else "internal")
    return problem_response(Problem(code, _detail(code, request)), request, error.headers)


def _detail(code: str, request: Request) -> str:
    match code:
        case "no-such-path":
            return "No resource has this path; the paths there are stand in /openapi.json."
        case "method-not-allowed":
            return f"{request.method} is not one of the methods in the Allow header."
        case _:
            return f"{CODES[code].title}."
