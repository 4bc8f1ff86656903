"""`tally run`: start everything, say where it is, follow the logs, stop everything.

A signal only leaves a note here, which is looked at between two steps, so that a Ctrl-C cannot strike between
starting a process and knowing about it.
"""

import json
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from types import FrameType

from tally.local.console import OURS, Console, standard_output, wants_colour
from tally.local.control import Control
from tally.local.lock import FolderLock
from tally.local.postgres import EmbeddedPostgres
from tally.local.services import SERVICES, Place, Program, address
from tally.local.stack import POSTGRES, Interrupted, LocalStack
from tally.local.walkthrough import NEEDED, lines_to_paste

#: Where the `tally` command is.
BIN = Path(sys.executable).parent
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stop:
    """The signals that ask us to stop: the first sets `asked`, the second kills."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.stack: LocalStack | None = None
        # A handler runs between any two steps of the main thread, maybe while that holds the lock that the handler
        # needs. Only this queue's `put` is made for that; a thread does the rest.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in STOP_SIGNALS:
            signal.signal(number, self._note)
        threading.Thread(target=self._act, name="stop", daemon=True).start()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.put(number)

    def _act(self) -> None:
        self._signals.get()
        self.asked.set()
        while True:
            self._signals.get()
            if self.stack is not None:
                self.stack.kill_everything()


def run(
    folder: Path,
    *,
    programs: Sequence[Program] = SERVICES,
    supervise: bool = True,
    durable: bool = True,
    machine_readable: bool = False,
) -> int:
    """Run until a signal: the exit code. `machine_readable` prints JSON events instead of logs (`Events`)."""
    stop = Stop()
    shown = Events() if machine_readable else Screen(stop, programs)
    stack = stop.stack = LocalStack(
        folder,
        programs=programs,
        supervise=supervise,
        durable=durable,
        on_line=shown.line,
        on_event=shown.event,
    )
    try:
        shown.starting(stack)
        stack.start(interrupted=stop.asked.is_set)
        with Control(stack):
            shown.ready(stack)
            stop.asked.wait()
        shown.stopping()
        stack.stop()
        shown.stopped()
    except Interrupted:
        shown.stopped()
    finally:
        shown.close()
    return 0


class Screen:
    """For a person."""

    def __init__(self, stop: Stop, programs: Sequence[Program]) -> None:
        out = standard_output()
        names = [*(program.name for program in programs), POSTGRES]
        self._console = Console(names, out=out, colour=wants_colour(out), on_broken=stop.asked.set)
        self.line = self._console.line
        self.event = self._console.event
        self.close = self._console.close

    def starting(self, stack: LocalStack) -> None:
        first = stack.has_postgres and not (stack.folder / POSTGRES / "data").exists()
        what = "PostgreSQL, for the first time," if first else "PostgreSQL" if stack.has_postgres else ""
        services = ", ".join(program.name for program in stack.programs)
        self._console.say(f"Starting {' and '.join(filter(None, [what, services]))} …")

    def ready(self, stack: LocalStack) -> None:
        self._console.say(welcome(stack))

    def stopping(self) -> None:
        self._console.event(OURS, "stopping (Ctrl-C again kills)")

    def stopped(self) -> None:
        self._console.event(OURS, "stopped; the data stays in the folder, `make reset-data` deletes it")


class Events:
    """For a program: one JSON object per line. {"event": "ready", "urls", "admin_urls", "pids", "postgres_port",
    "folder"}, {"event": "service", "name", "message"}, {"event": "stopped"}; the logs are in the folder.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def line(self, name: str, line: bytes) -> None: ...

    def event(self, name: str, sentence: str) -> None:
        self._write({"event": "service", "name": name, "message": sentence})

    def starting(self, stack: LocalStack) -> None: ...

    def ready(self, stack: LocalStack) -> None:
        self._write(
            {
                "event": "ready",
                "urls": stack.urls,
                "admin_urls": stack.admin_urls,
                "pids": stack.running(),
                "postgres_port": stack.postgres.port if stack.has_postgres else None,
                "folder": str(stack.folder),
            }
        )

    def stopping(self) -> None: ...

    def stopped(self) -> None:
        self._write({"event": "stopped"})

    def close(self) -> None: ...

    def _write(self, event: Mapping[str, object]) -> None:
        with self._lock:
            sys.stdout.write(json.dumps(event) + "\n")
            sys.stdout.flush()


def welcome(stack: LocalStack) -> str:
    """The addresses and the walkthrough."""
    rows = [_row(program, stack.places[program.name]) for program in stack.programs]
    if stack.has_postgres:
        where = f"127.0.0.1:{stack.postgres.port}"
        rows.append(f"  {POSTGRES:<12} {where:<28} passwords: {_near(stack.folder / POSTGRES / 'passwords.json')}")
    rows.append(f"  {'logs':<12} {_near(stack.folder / 'log')}")
    lines = ["", "Tally is ready.", "", *rows, ""]
    if _is_tally(stack):
        walk = [f"  {line}" for line in lines_to_paste(stack.places).splitlines()]
        lines += [f"To look at, and to click through: {stack.urls['gateway']}/ui", ""]
        lines += ["In another terminal, `make demo`, or by hand:", "", *walk, ""]
        lines += ["(The directory and the mail follow when the attendances are settled, after 2 to 3 seconds.)", ""]
        lines += [f"To type `tally status` and the like: export PATH={quote(str(BIN))}:$PATH", ""]
    return "\n".join([*lines, "Ctrl-C stops everything.", ""])


def _row(program: Program, here: Place) -> str:
    if program.settings:
        return f"  {program.name:<12} {here.url:<28} metrics and health: port {here.admin_port}"
    return f"  {program.name:<12} {address(program, here):<28} to look at: {here.admin_url}"


def reset_data(folder: Path) -> None:
    """Delete the local databases, and what else keeps data, unless a stack is using it."""
    with FolderLock(folder):
        EmbeddedPostgres(folder / POSTGRES).destroy()
        for program in SERVICES:
            shutil.rmtree(folder / program.name, ignore_errors=True)


def _is_tally(stack: LocalStack) -> bool:
    return set(NEEDED) <= stack.places.keys()


def _near(path: Path) -> str:
    """As seen from where we are, if that is shorter."""
    try:
        return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
    except OSError:
        return str(path)
