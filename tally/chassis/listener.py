"""A port that the process listens on: taken before anything else is begun, served by uvicorn, closed in order.

Assumes one event loop for all listeners of a process; what is done with a request is the application's business.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import uvicorn
from cryptography import x509
from starlette.types import ASGIApp

from tally.chassis.connection import HttpProtocol
from tally.chassis.settings import ServiceSettings, variable


class PortTaken(Exception):
    """A sentence that names the port and the variable to set."""


_BACKLOG: Final = 2048


def bound(settings: ServiceSettings, name: str) -> socket.socket:
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


def url(settings: ServiceSettings, listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    scheme = "https" if settings.tls_cert_file else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextlib.asynccontextmanager
async def listening(
    settings: ServiceSettings, app: ASGIApp, listener: socket.socket, name: str, grace_s: float
) -> AsyncIterator[None]:
    """uvicorn on the socket for the block; at its end no new requests, and those in flight get `grace_s`."""
    server = _Server(_uvicorn_config(settings, app, grace_s))
    try:
        listener.listen(_BACKLOG)
    except OSError as error:  # two may bind a port that nobody listens on yet; only one of them may listen
        raise _port_taken(settings, name, error) from error
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"listener {name}")
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
        http=HttpProtocol,
        ws="none",
        loop="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_graceful_shutdown=math.ceil(grace_s),
        ssl_context_factory=_tls(settings),
    )


def certificate_ends_s(file: str) -> float:
    """When the certificate in a PEM file stops being valid, in Unix seconds. (Of a chain: the first.)"""
    return x509.load_pem_x509_certificate(Path(file).read_bytes()).not_valid_after_utc.timestamp()


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
            if isinstance(connection, HttpProtocol) and connection.is_overdue(now_s):
                connection.transport.abort()
