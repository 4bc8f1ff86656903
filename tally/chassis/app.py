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
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, TypeVar

import msgspec
import structlog
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tally.chassis import docs, logs, openapi
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.faults import Faults
from tally.chassis.health import Check, Health
from tally.chassis.http import Route, starlette_routes
from tally.chassis.listener import PortTaken, bound, certificate_ends_s, listening, url
from tally.chassis.migrate import MigrationError, Source, migrate
from tally.chassis.settings import ServiceSettings, SettingsError, load, part, variable
from tally.chassis.shedding import shedding
from tally.chassis.signals import Signals
from tally.chassis.stack import STATUS_MAX, Stack

Lifespan = Callable[[], AbstractAsyncContextManager[None]]
Settings = TypeVar("Settings", bound=ServiceSettings)
_MIGRATES_BY: Final = ("database_url", "log_format", "log_level")

_log = structlog.get_logger()


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
    home: str = "/docs"
    """The page that a browser is sent to from `/`."""
    admin_routes: Sequence[Route] = ()
    """On the admin port, beside those of `health.py`."""
    lifespan: Lifespan = _nothing
    """Entered before the public port opens, left after its last answer."""
    checks: Mapping[str, Check] = field(default_factory=dict)
    """What must be in order for the service to be ready: its own things, never a peer."""
    faults: Faults | None = None
    """What goes wrong on purpose, where a setting allows it; a check of its own, and over when the service ends."""
    stopping: Callable[[], None] = lambda: None
    """Told when it begins to stop: who holds answers open ends them, so that nobody has to wait for them."""
    drain_s: float = 0.0
    """How long it goes on after it said that it is not ready: until load balancers have noticed."""
    clock: Clock = field(default_factory=SystemClock)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a running service listens."""

    url: str
    admin_url: str


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
        if command == "migrate":
            _migrate_and_exit(name, settings_type, migrations)
        settings = load(settings_type, os.environ)
    except SettingsError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    logs.configure(name, format=settings.log_format, level=settings.log_level)
    _allow_connections()
    signals = Signals(name, environ=os.environ, process=True)
    sys.exit(_run(serve(build(settings, signals))))


def _migrate_and_exit(name: str, settings_type: type[ServiceSettings], migrations: Sequence[Source]) -> NoReturn:
    """Needs no port, no peer and no key: of the settings, only what it uses must be right."""
    known = [variable(field.name) for field in msgspec.structs.fields(settings_type)]
    settings: Any = load(part(settings_type, _MIGRATES_BY), os.environ, elsewhere=known)
    logs.configure(name, format=settings.log_format, level=settings.log_level)
    sys.exit(_run(_migrated(settings, migrations)))


def _run(work: Any) -> int:
    try:
        import uvloop

        loop_factory = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        code: int = runner.run(work)
        return code


def _allow_connections() -> None:
    """As many files, and so connections, as the process may have: the usual soft limit is 1,024."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _migrated(settings: Any, migrations: Sequence[Source]) -> int:
    if not migrations:
        print("This service has no database.")
        return 0
    try:
        applied = await migrate(settings.database_url, migrations)
    except MigrationError as error:
        print(error, file=sys.stderr)
        return 1
    print("\n".join(f"applied {one}" for one in applied) or "Nothing to do.")
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


_ADMIN_GRACE_S: Final = 1.0


@contextlib.asynccontextmanager
async def running(service: Service) -> AsyncIterator[Addresses]:
    """The service with its ports, for the block. Tests run services in their own process by this."""
    settings, faults = service.settings, service.faults
    failing = {} if faults is None else {"faults": faults.check_ready}
    health = Health({**service.checks, **failing}, service.signals)
    async with contextlib.AsyncExitStack() as stack:
        public = stack.enter_context(bound(settings, "port"))
        admin = stack.enter_context(bound(settings, "admin_port"))
        service.signals.build_info(_version()).set(1)
        if settings.tls_cert_file is not None:
            ends_s = certificate_ends_s(settings.tls_cert_file)
            left = service.signals.certificate_expires_seconds()
            left.set_function(lambda: ends_s - service.clock.now_ms() / 1000)
        if service.signals.traced:
            stack.push_async_callback(asyncio.to_thread, service.signals.close)
        app = _admin_app(service, health)
        await stack.enter_async_context(listening(settings, app, admin, "admin_port", _ADMIN_GRACE_S))
        if faults is not None:
            stack.callback(faults.close)
        await stack.enter_async_context(service.lifespan())
        app = _public_app(service)
        await stack.enter_async_context(listening(settings, app, public, "port", settings.shutdown_grace_s))
        health.started = True
        try:
            yield Addresses(url(settings, public), url(settings, admin))
        finally:
            health.draining = True
            await asyncio.sleep(service.drain_s)
            service.stopping()


# --- what answers ----------------------------------------------------------------------------------------------------


def _public_app(service: Service) -> ASGIApp:
    document = openapi.document(f"Tally: {service.name}", _version(), service.routes)
    app = _router([*service.routes, *docs.routes(document, service.home), *service.internal_routes])
    if service.faults is not None:
        app = service.faults.around(app)
    return Stack(shedding(app, service.clock, service.signals), service.settings, service.signals, service.clock)


def _admin_app(service: Service, health: Health) -> ASGIApp:
    app = _router([*health.routes(), *service.admin_routes])
    # (A line per failed probe would say nothing that the probe's answer does not.)
    return Stack(app, service.settings, service.signals, service.clock, log_from_status=STATUS_MAX)


def _router(routes: Sequence[Route]) -> ASGIApp:
    """Starlette's router; a path without parameters, as that of every call between services, is looked up instead of
    matched against one route after the other."""
    known = starlette_routes(routes)
    matching = Router(known, redirect_slashes=False)
    fixed = {route.path: route for route in known if not route.param_convertors}

    async def routed(scope: Scope, receive: Receive, send: Send) -> None:
        route = fixed.get(scope["path"])
        if route is None:
            await matching.app(scope, receive, send)
        else:
            scope["route"], scope["path_params"] = route, {}
            await route.app(scope, receive, send)

    return routed


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("tally")
    except PackageNotFoundError:
        return "0"
