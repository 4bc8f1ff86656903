"""A way to speak to the stack that runs in another terminal: stop one of its services, and start it again.

    with Control(stack): …                                  # what `tally run` does
    Remote(folder).stop("conference")                       # what `tally stop conference` does
    with Remote(folder).stopped("conference"): …            # what `tally demo` does
    Remote(folder).places()                                 # where it listens, for every other command

`tally run` listens on a loopback port; the folder's `control.json`, which only its owner can read, says on which,
what to show there, and where the stack's programs listen. A service that is stopped for a connection is started again
when that connection ends, however that comes about: whoever asked may be interrupted, or killed.
"""

from __future__ import annotations

import json
import secrets
import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tally.local.failure import LocalError
from tally.local.processes import LOOPBACK
from tally.local.services import Place, Places
from tally.local.stack import POSTGRES, READY_TIMEOUT_S, STOP_TIMEOUT_S, LocalStack

_FILE = "control.json"
#: Whoever runs on this machine takes a connection within this time.
_THERE_S = 1.0
#: Stopping, starting and getting ready take no longer than this.
_PATIENCE_S = READY_TIMEOUT_S + STOP_TIMEOUT_S + 5.0


class Control:
    """Listens for the block; after it, nothing is started or stopped any more."""

    def __init__(self, stack: LocalStack) -> None:
        self._stack = stack
        self._token = secrets.token_hex(16)
        self._lock = threading.Lock()
        self._closed = False
        self._server = _Server((LOOPBACK, 0), _handler(self))
        self._file = stack.folder / _FILE

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, name="control", daemon=True).start()
        self._file.touch(mode=0o600)
        places = {name: asdict(here) for name, here in self._stack.places.items()}
        told = {"port": self._server.server_address[1], "token": self._token, "places": places}
        self._file.write_text(json.dumps(told))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()
        with self._lock:  # what is under way ends first
            self._closed = True

    def converse(self, request: Any, wait_for_end: Any, answer: Any) -> None:
        """One connection: what is asked, and for `hold`, its being undone when the connection ends."""
        if not secrets.compare_digest(str(request.get("token")), self._token):
            return
        action, name = request.get("action"), request.get("service")
        refused = self._act("start" if action == "start" else "stop", name)
        answer({"refused": refused})
        if action == "hold" and refused is None:
            wait_for_end()
            self._act("start", name)

    def _act(self, action: str, name: Any) -> str | None:
        """None, or a sentence that says why not."""
        names = [known for known in self._stack.names if known != POSTGRES]
        if name not in names:
            return f"There is no service {name} to {action}: the names are {', '.join(names)}."
        with self._lock:
            if self._closed:
                return "Tally is stopping."
            if action == "stop":
                self._stack.stop_service(name)
                return None
            self._stack.begin_service(name)
        try:
            self._stack.wait_ready(name)
        except LocalError as error:
            return str(error)
        return None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


def _handler(control: Control) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        """One JSON object on a line in, one out."""

        def handle(self) -> None:
            with suppress(OSError, ValueError):
                request = json.loads(self.rfile.readline(4096))
                control.converse(request, self._wait_for_end, self._answer)

        def _wait_for_end(self) -> None:
            with suppress(OSError):
                self.rfile.read()

        def _answer(self, body: dict[str, object]) -> None:
            with suppress(OSError):
                self.wfile.write(json.dumps(body).encode() + b"\n")

    return Handler


class Remote:
    """The stack that runs from a folder, as another process sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def is_there(self) -> bool:
        """Whether `tally run` has been started from the folder, and has not ended in order since."""
        return (self._folder / _FILE).exists()

    def places(self) -> Places | None:
        """Where the stack's programs listen; None if none runs."""
        try:
            told = json.loads((self._folder / _FILE).read_text())
            # (The file outlives a run that was killed.)
            socket.create_connection((LOOPBACK, told["port"]), timeout=_THERE_S).close()
            return {name: Place(**here) for name, here in told["places"].items()}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def stop(self, name: str) -> None:
        """Stop a service until it is started, or Tally is."""
        self._asked("stop", name).close()

    def start(self, name: str) -> None:
        """Start it again and return when it is ready."""
        self._asked("start", name).close()

    @contextmanager
    def stopped(self, name: str) -> Iterator[None]:
        """Without the service for the block; afterwards it is ready again. It is also started if we are killed."""
        connection = self._asked("hold", name)
        try:
            yield
        finally:
            connection.close()
            self.start(name)

    def _asked(self, action: str, name: str) -> socket.socket:
        """The connection on which it was done."""
        try:
            told = json.loads((self._folder / _FILE).read_text())
            connection = socket.create_connection((LOOPBACK, told["port"]), timeout=_PATIENCE_S)
        except (OSError, ValueError, KeyError) as error:
            raise LocalError(
                f"No Tally runs from {self._folder}: start it with `make run` in another terminal and try again."
            ) from error
        request = {"token": told["token"], "action": action, "service": name}
        try:
            connection.sendall(json.dumps(request).encode() + b"\n")
            answer = json.loads(_line(connection) or b"{}")
        except (OSError, ValueError) as error:
            connection.close()
            raise LocalError(f"The Tally that runs from {self._folder} did not {action} {name} ({error}).") from error
        if (refused := answer.get("refused", "It gave no answer.")) is not None:
            connection.close()
            raise LocalError(refused)
        return connection


def _line(connection: socket.socket) -> bytes:
    """What is answered, up to the end of its line."""
    line = b""
    while not line.endswith(b"\n") and (part := connection.recv(4096)):
        line += part
    return line
