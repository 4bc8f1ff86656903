"""What is around each request, whatever the route: one plain ASGI application, the same for all services and ports.

The request's context (ids, trace, deadline), the server span, the duration by route, the limit on the body,
`X-Request-Id` on the answer, the log line, and a problem for whatever is raised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from types import SimpleNamespace
from typing import Final

import structlog
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tally.chassis import context, database_faults, problems
from tally.chassis.clock import Clock
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.http import BACKGROUND, HELD_BACK_S, LASTING, SAFE
from tally.chassis.metrics import exemplar
from tally.chassis.problems import Problem, problem_response
from tally.chassis.settings import ServiceSettings
from tally.chassis.shedding import SHED
from tally.chassis.signals import Signals
from tally.resilience.deadline import Deadline

_log = structlog.get_logger()

_METHODS: Final = frozenset((*SAFE, "POST", "PUT", "PATCH", "DELETE", "CONNECT"))
_CLIENT_ERROR: Final = 400
_SERVER_ERROR: Final = 500
_TIME_OVER: Final = 504
STATUS_MAX: Final = 600
# (0: the connection was cut, by a fault that was switched on, before there was an answer.)
_STATUS: Final = {0: "none", **{status: str(status) for status in range(100, STATUS_MAX)}}
_UNMATCHED: Final = "unmatched"
_LENGTH_DIGITS_MAX: Final = 18


class Stack:
    """What is around each request, whatever the route."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServiceSettings,
        signals: Signals,
        clock: Clock,
        *,
        log_from_status: int = _SERVER_ERROR,
    ) -> None:
        self._app = app
        self._log_from_status = 0 if settings.access_log == "all" else log_from_status
        self._signals = signals
        self._now_s = clock.monotonic_s
        self._deadline_s = settings.request_deadline_s
        self._body_max_bytes = settings.body_max_bytes
        self._durations = signals.http_server_request_duration_seconds
        self._exceeded = signals.deadlines_exceeded_total()
        # What `request.app.state.settings` finds.
        self._state = SimpleNamespace(state=SimpleNamespace(settings=settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun_s = self._now_s()
        scope["app"] = self._state
        here = context.arrived(scope["headers"], begun_s, self._deadline_s)
        token = context.enter(here)
        answer = _Answer(send, here.request_id)
        try:
            with self._signals.server_span(here) as span:
                here = context.current() or here
                await self._answered(scope, receive, answer, here.deadline)
                self._ended(scope, answer.status, begun_s, here)
                if here.sampled:
                    span.rename(f"{scope['method']} {_route(scope)}")
                    span.set(**{"http.route": _route(scope), "http.response.status_code": answer.status})
        finally:
            context.leave(token)

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer, deadline: Deadline | None) -> None:
        try:
            await self._app(scope, self._checked(scope, receive, deadline), answer)
        except BaseException as error:
            if answer.status:
                raise  # half an answer is out: uvicorn cuts the connection, so that nobody takes it for a whole one
            response = await self._response_to(error, Request(scope, receive))
            await response(scope, receive, answer)

    def _checked(self, scope: Scope, receive: Receive, deadline: Deadline | None) -> Receive:
        """What to read the body from. Raises where the request is not to be begun at all."""
        if deadline is not None and deadline.expired(self._now_s()):
            raise Problem("deadline-exceeded", "The deadline had passed when the request arrived; nothing was done.")
        for name, value in scope["headers"]:
            if name == b"content-length":
                # (Digits only: the parser has seen to it. Nobody means a length of more than 18 of them.)
                if len(value) > _LENGTH_DIGITS_MAX or int(value) > self._body_max_bytes:
                    raise self._too_large()
            elif name == b"transfer-encoding":
                return self._counting(receive)
        return receive

    def _too_large(self) -> Problem:
        return Problem("body-too-large", f"The body is larger than {self._body_max_bytes} bytes.")

    def _counting(self, receive: Receive) -> Receive:
        """`receive` for a body that did not say its length."""
        left = self._body_max_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise self._too_large()
            return message

        return counted

    async def _response_to(self, error: BaseException, request: Request) -> Response:
        match error:
            case Problem():
                return problem_response(error, request)
            case HTTPException():
                return await problems.on_http_exception(request, error)
            case DatabaseFault():
                return problem_response(database_faults.problem(error, reading=request.method in SAFE), request)
            case asyncio.CancelledError():
                return problem_response(_cut_off(request), request, {"Connection": "close"})
            case Exception():
                return problems.unexpected_response(error, request)
            case _:
                raise error

    def _ended(self, scope: Scope, status: int, begun_s: float, here: context.Context) -> None:
        if LASTING in scope:
            return
        ended_s = self._now_s()
        duration_s = ended_s - begun_s
        if status == _TIME_OVER or (here.deadline is not None and here.deadline.expired(ended_s)):
            self._exceeded.inc()
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._durations(method, _route(scope), _STATUS[status]).observe(
            duration_s - scope.get(HELD_BACK_S, 0.0), exemplar(here)
        )
        late = duration_s > self._deadline_s
        if late or (status >= self._log_from_status and not (SHED in scope and self._log_from_status)):
            log = _log.debug if BACKGROUND in scope and status < _CLIENT_ERROR and not late else _log.info
            log(
                "request",
                method=scope["method"],
                path=scope["path"],
                route=_route(scope),
                status=status,
                duration_ms=round(duration_s * 1000, 3),
            )


class _Answer:
    """`send`, with the request's id on the answer; remembers the status."""

    __slots__ = ("_header", "_send", "status")

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self.status = 0

    def __call__(self, message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], self._header]
        return self._send(message)


def _route(scope: Scope) -> str:
    route = scope.get("route")
    return _UNMATCHED if route is None else route.path


def _cut_off(request: Request) -> Problem:
    """Cancelled by uvicorn: the service stops, and the time that requests in flight were given is over."""
    if request.method in SAFE:
        return Problem("service-unavailable", "The service is stopping.")
    return Problem("outcome-unknown", "The service stopped before this was done, or before it could say so.")
