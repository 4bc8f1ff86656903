"""What every service process is: settings, two listeners, one stack around each request, and an orderly end.

    main("author", AuthorSettings, build, migrations)       # python -m services.author [serve | migrate]

`build` makes a `Service` from the settings; `main` does the rest. In the order of its life:

1. Settings are read; a bad one ends the process with a sentence that names the variable (exit code 2).
2. Both ports are taken; one that is in use ends the process with a sentence, too (1).
3. The admin port answers: alive, not started.
4. The service's `lifespan` is entered. It waits for its database, and starts its agents.
5. The public port answers: started, ready.
6. SIGTERM or SIGINT: not ready any more; after `drain_s` the public port closes; what is in flight ends, within
   `shutdown_grace_s`; the lifespan is left; the admin port closes; exit code 0. A second signal ends it at once.

An agent that dies takes the process with it (the lifespan's task group does that): whoever started it restarts it,
and a half-working process helps nobody.

**The stack** is one plain ASGI application around the routes, the same for each service and both ports: the request's
context (ids, trace, deadline), the server span, the duration by route, the limit on the body, `X-Request-Id` on the
answer, the log line, and a problem for whatever is raised.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import math
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Final, NoReturn, TypeVar

import httptools
import msgspec
import structlog
import uvicorn
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from tally.chassis import context, database, docs, logs, openapi, problems
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.database import DatabaseFault
from tally.chassis.faults import Faults
from tally.chassis.health import Check, Health
from tally.chassis.http import Handler, Route, starlette_routes
from tally.chassis.migrate import MigrationError, Source, migrate
from tally.chassis.problems import Problem, problem_response
from tally.chassis.settings import ServiceSettings, SettingsError, load, variable
from tally.chassis.shedding import shedding
from tally.chassis.signals import Signals, exemplar

Lifespan = Callable[[], AbstractAsyncContextManager[None]]
Settings = TypeVar("Settings", bound=ServiceSettings)

_log = structlog.get_logger(__name__)


@contextlib.asynccontextmanager
async def _nothing() -> AsyncIterator[None]:
    yield


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service, ready to be run."""

    name: str
    settings: ServiceSettings
    signals: Signals
    routes: Sequence[Route] = ()
    """The public API; `/openapi.json` and `/docs` come from it."""
    internal_routes: Sequence[Route] = ()
    """On the public port, too, but for other services only: not in the document."""
    admin_routes: Sequence[Route] = ()
    """On the admin port, beside those of `health.py`."""
    lifespan: Lifespan = _nothing
    """Entered before the public port opens, left after its last answer."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What must be in order for the service to be ready: its own things, never a peer."""
    faults: Faults | None = None
    """What goes wrong on purpose, where a setting allows it."""
    drain_s: float = 0.0
    """How long it goes on after it said that it is not ready: until load balancers have noticed."""
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running service listens."""

    url: str
    admin_url: str


class PortTaken(Exception):
    """A sentence that names the port and the variable to set."""


# --- a process -----------------------------------------------------------------------------------------------------


def main(
    name: str,
    settings_type: type[Settings],
    build: Callable[[Settings, Signals], Service],
    migrations: Sequence[Source] = (),
) -> NoReturn:
    """The command line of a service. Never returns."""
    command, *more = sys.argv[1:] or ["serve"]
    if more or command not in ("serve", "migrate"):
        sys.exit(f"usage: python -m services.{name} [serve | migrate]")
    try:
        settings = load(settings_type, os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logs.configure(name, format=settings.log_format, level=settings.log_level)
    if command == "migrate":
        sys.exit(_run(_migrated(settings, migrations)))
    signals = Signals(name, environ=os.environ, process=True)
    sys.exit(_run(serve(build(settings, signals))))


def _run(work: Any) -> int:
    try:
        import uvloop

        loop_factory = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code: int = runner.run(work)
        return code


async def _migrated(settings: Any, migrations: Sequence[Source]) -> int:
    if not migrations:
        print("This service has no database.")
        return 0
    try:
        applied = await migrate(settings.database_url, migrations)
    except MigrationError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"applied {one.source}/{one.name}" for one in applied) or "Nothing to do.")
    return 0


async def serve(service: Service) -> int:
    """Runs until a signal, or until it breaks; the exit code."""
    stopping = _Stopping(asyncio.get_running_loop())
    try:
        async with running(service) as addresses:
            stopping.started = True
            _spare_the_collector()
            _log.info("serving", url=addresses.url, admin=addresses.admin_url)
            await stopping.wait()
    except PortTaken as error:
        print(error, file=sys.stderr)
        return 1
    except asyncio.CancelledError:
        if not stopping.asked:
            raise
    except BaseException as error:
        _log.critical("stopped by an error", exc_info=error)
        return 1
    _log.info("stopped")
    return 0


def _spare_the_collector() -> None:
    """What is there now stays: the garbage collector need not look at it again, nor look as often as it does.

    A request makes a few hundred objects that die by themselves; the default threshold of 700 looks after every other.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


class _Stopping:
    """The first signal asks the process to stop, the second one does not ask."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.started = False
        self._stop = asyncio.Event()
        self._task = asyncio.current_task()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)

    @property
    def asked(self) -> bool:
        return self._stop.is_set()

    async def wait(self) -> None:
        await self._stop.wait()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.asked:
            os._exit(128 + number)
        _log.info("stopping", signal=number.name)
        self._stop.set()
        if not self.started and self._task is not None:
            self._task.cancel()  # it may be waiting for a database that never comes


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Addresses]:
    """The service with its ports, for the block. Tests run services in their own process by this."""
    settings, health = service.settings, Health(service.checks, service.signals)
    async with contextlib.AsyncExitStack() as stack:
        public = stack.enter_context(_bound(settings, "port"))
        admin = stack.enter_context(_bound(settings, "admin_port"))
        if service.signals.traced:
            stack.push_async_callback(asyncio.to_thread, service.signals.close)
        app = _admin_app(service, health)
        await stack.enter_async_context(_listening(service, app, admin, "admin_port", _ADMIN_GRACE_S))
        await stack.enter_async_context(service.lifespan())
        app = _public_app(service)
        await stack.enter_async_context(_listening(service, app, public, "port", settings.shutdown_grace_s))
        health.started = True
        try:
            yield Addresses(_url(settings, public), _url(settings, admin))
        finally:
            health.draining = True
            await asyncio.sleep(service.drain_s)


# --- listeners -----------------------------------------------------------------------------------------------------

_BACKLOG: Final = 2048
_ADMIN_GRACE_S: Final = 1.0
# More than the internal client keeps a connection idle (`client.py`), and than load balancers usually do (60 s).
_KEEP_ALIVE_S: Final = 75
# A request's line and headers: in bytes, in number, and until they have come in full. Then its body.
_HEAD_MAX_BYTES: Final = 32 * 1024
_HEADERS_MAX: Final = 100
_HEAD_S: Final = 10.0
_BODY_S: Final = 30.0
_FRAMING: Final = (b"content-length", b"transfer-encoding")


def _bound(settings: ServiceSettings, name: str) -> socket.socket:
    port = getattr(settings, name)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, port))
    except OSError as error:
        listener.close()
        raise _port_taken(settings, name, error) from error
    listener.setblocking(False)
    return listener


def _port_taken(settings: ServiceSettings, name: str, error: OSError) -> PortTaken:
    return PortTaken(
        f"Cannot listen on {settings.host} port {getattr(settings, name)} ({error.strerror or error}): "
        f"stop what uses it, or set {variable(name)} to another port."
    )


def _url(settings: ServiceSettings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.asynccontextmanager
async def _listening(
    service: Service, app: ASGIApp, listener: socket.socket, name: str, grace_s: float
) -> AsyncIterator[None]:
    """uvicorn on the socket for the block; at its end no new requests, and those in flight get `grace_s`."""
    server = _Server(_uvicorn_config(service.settings, app, grace_s))
    try:
        listener.listen(_BACKLOG)
    except OSError as error:  # two may bind a port that nobody listens on yet; only one of them may listen
        raise _port_taken(service.settings, name, error) from error
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"{service.name} {name}")
    host = asyncio.current_task()

    def ended(task: asyncio.Task[None]) -> None:
        server.ready.set()
        if not server.should_exit and host is not None:
            host.cancel()  # a listener that broke: the block must not go on as if it were there

    task.add_done_callback(ended)
    try:
        await server.ready.wait()
        yield
    finally:
        server.should_exit = True
        await task


def _uvicorn_config(settings: ServiceSettings, app: ASGIApp, grace_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_HttpProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(grace_s),
        ssl_context_factory=_tls(settings),
    )


def _tls(settings: ServiceSettings) -> Callable[[Any, Any], ssl.SSLContext] | None:
    if settings.tls_cert_file is None:
        return None
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.minimum_version = ssl.TLSVersion.TLSv1_2
    server.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return lambda config, default: server


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers (ours stop it), which also says when it listens and hangs up on the slow."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    def capture_signals(self) -> contextlib.AbstractContextManager[None]:  # type: ignore[override]
        return contextlib.nullcontext()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def on_tick(self, counter: int) -> bool:
        if counter % 10 == 0:
            self._hang_up_on_the_slow()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        await super().shutdown(sockets)
        # Requests that ran out of grace were cancelled: let them say so.
        if tasks := set(self.server_state.tasks):
            await asyncio.wait(tasks, timeout=1.0)

    def _hang_up_on_the_slow(self) -> None:
        now_s = asyncio.get_running_loop().time()
        for connection in list(self.server_state.connections):
            if isinstance(connection, _HttpProtocol) and connection.is_overdue(now_s):
                connection.transport.abort()


class _HttpProtocol(HttpToolsProtocol):
    """uvicorn's, with limits on the size of a request's head and on the time that it may take to arrive, and
    with an answer for those who offer to upgrade.

    Every stock Java client offers HTTP/2 in clear (`Upgrade: h2c`) with each request. We may ignore that (RFC 9110,
    7.8), but httptools stops after such a head, so that uvicorn loses the body (Kludex/uvicorn#2722). Here another
    parser goes on with the body.
    """

    _begun_s = 0.0
    _head_bytes = 0
    _awaited = True
    """A head is being waited for: a first one, or the rest of one that has begun."""
    _replaying = False
    """A parser is being told again what the one before it had seen: nobody else needs to hear it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._begun_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as stop:
            self._go_on_without_upgrade(data[stop.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("")

    def _go_on_without_upgrade(self, rest: bytes) -> None:
        framing = [(name, value) for name, value in self.headers if name in _FRAMING]
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's first one
        self._replaying = True
        self.parser.feed_data(b"POST / HTTP/1.1\r\n%s\r\n" % b"".join(b"%s: %s\r\n" % pair for pair in framing))
        self._replaying = False
        if rest:
            self.data_received(rest)

    def on_message_begin(self) -> None:
        if not self._replaying:
            super().on_message_begin()
            self._begun_s, self._head_bytes, self._awaited = self.loop.time(), 0, True

    def on_url(self, url: bytes) -> None:
        if not self._replaying:
            self._count(len(url))
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._replaying:
            self._count(len(name) + len(value))
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._replaying:
            self._awaited = False
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        # After a head that offers an upgrade, httptools takes the message for complete.
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def is_overdue(self, now_s: float) -> bool:
        if self._awaited:
            return now_s - self._begun_s > _HEAD_S
        cycle = self.cycle
        return cycle is not None and cycle.more_body and now_s - self._begun_s > _BODY_S

    def _count(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > _HEAD_MAX_BYTES or len(self.headers) >= _HEADERS_MAX:
            raise ValueError("the head of the request is too large")

    def send_400_response(self, msg: str) -> None:
        """A problem, and the connection closed: after what could not be parsed, nobody knows where a request begins."""
        refusal = Problem("bad-request", "This is not a request in HTTP/1.1, or its head is too large.")
        content = msgspec.json.encode(problems.body(refusal, "/"))
        self.transport.write(
            STATUS_LINE[refusal.status]
            + b"content-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            % (problems.CONTENT_TYPE.encode(), len(content))
            + content
        )
        self.transport.close()


# --- the stack -----------------------------------------------------------------------------------------------------


def _public_app(service: Service) -> ASGIApp:
    document = openapi.document(f"Tally: {service.name}", _version(), service.routes)
    app = _router([*service.routes, *docs.routes(document), *service.internal_routes])
    if service.faults is not None:
        app = service.faults.around(app)
    return Stack(service, shedding(app, service.clock, service.signals))


def _admin_app(service: Service, health: Health) -> ASGIApp:
    # (A line per failed probe would say nothing that the probe's answer does not.)
    return Stack(service, _router([*health.routes(), *service.admin_routes]), log_from_status=_STATUS_MAX)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tally")
    except PackageNotFoundError:
        return "0"


def _router(routes: Sequence[Route]) -> ASGIApp:
    translated = [dataclasses.replace(route, handler=_translated(route.handler)) for route in routes]
    return Router(starlette_routes(translated), redirect_slashes=False)


def _translated(handler: Handler) -> Handler:
    """A handler whose database faults, where it does not deal with them itself, are the problems that they mean."""

    @functools.wraps(handler)
    async def wrapped(request: Request) -> Response:
        try:
            return await handler(request)
        except DatabaseFault as fault:
            raise database.problem(fault, reading=request.method in _SAFE) from fault

    return wrapped


# RFC 9110, 9.2.1: what does not ask for a change.
_SAFE: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
_METHODS: Final = frozenset((*_SAFE, "POST", "PUT", "PATCH", "DELETE", "CONNECT"))
_SERVER_ERROR: Final = 500
_STATUS_MAX: Final = 600
# (0: the connection was cut, by a fault that was switched on, before there was an answer.)
_STATUS: Final = {0: "none", **{status: str(status) for status in range(100, _STATUS_MAX)}}
_UNMATCHED: Final = "unmatched"
_LENGTH_DIGITS_MAX: Final = 18


class Stack:
    """What is around each request, whatever the route."""

    def __init__(self, service: Service, app: ASGIApp, *, log_from_status: int = _SERVER_ERROR) -> None:
        settings = service.settings
        self._app = app
        self._log_from_status = 0 if settings.access_log == "all" else log_from_status
        self._service = service.name
        self._signals = service.signals
        self._now_s = service.clock.monotonic_s
        self._deadline_s = settings.request_deadline_s
        self._body_max_bytes = settings.body_max_bytes
        self._durations = service.signals.http_server_request_duration_seconds
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
                await self._answered(scope, receive, answer)
                self._ended(scope, answer.status, self._now_s() - begun_s, here)
                if here.sampled:
                    span.rename(f"{scope['method']} {_route(scope)}")
                    span.set(**{"http.route": _route(scope), "http.response.status_code": answer.status})
        finally:
            context.leave(token)

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, self._checked(scope, receive), answer)
        except BaseException as error:
            if answer.status:
                raise  # half an answer is out: uvicorn cuts the connection, so that nobody takes it for a whole one
            response = await self._response_to(error, Request(scope, receive))
            await response(scope, receive, answer)

    def _checked(self, scope: Scope, receive: Receive) -> Receive:
        """What to read the body from. Raises where the request is not to be begun at all."""
        deadline = context.deadline()
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
                return problem_response(database.problem(error, reading=request.method in _SAFE), request)
            case asyncio.CancelledError():
                return problem_response(_cut_off(request), request, {"Connection": "close"})
            case Exception():
                return problems.unexpected_response(error, request)
            case _:
                raise error

    def _ended(self, scope: Scope, status: int, duration_s: float, here: context.Context) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        self._durations(method, _route(scope), _STATUS[status]).observe(duration_s, exemplar(here))
        if status >= self._log_from_status or duration_s > self._deadline_s:
            _log.info(
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
    if request.method in _SAFE:
        return Problem("service-unavailable", "The service is stopping.")
    return Problem("outcome-unknown", "The service stopped before this was done, or before it could say so.")
