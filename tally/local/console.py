"""What `tally run` shows: the services' log lines, one colour per service, and our own sentences between them.

The services write JSON lines; a line that is not JSON (a traceback, somebody's print) is shown as it is. A thread of
its own writes to the terminal, from a bounded queue: a terminal that is held with Ctrl-S must not stop the services,
so lines are dropped, counted, and the count is shown. The files below `.tally/log` have them all.
"""

import json
import os
import queue
import re
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from http import HTTPStatus
from typing import Any, Final, TextIO

OURS = "tally"
RESET = "\033[0m"
BOLD = "\033[1m"
DIM = "\033[2m"
RED = "\033[31m"
YELLOW = "\033[33m"
COLOURS = ("\033[36m", "\033[35m", "\033[32m", "\033[34m", "\033[33m", "\033[96m", "\033[95m", "\033[92m")
LEVELS = {"warning": YELLOW, "error": RED, "critical": RED}
# Shown in a place of their own, or said by the colour already.
PLACED = frozenset({"timestamp", "level", "event", "service", "traceback"})
OF_REQUESTS = frozenset({"method", "path", "status", "duration_ms"})
# The last part of the path.
HEALTH = frozenset({"readyz", "livez", "startupz", "metrics"})
# The last is what the gateway's page asks the directory, while somebody looks.
ROUNDS = frozenset({"close", "settle", "forward", "ack", "status", "operation"})
# Long, and wanted only when something went wrong.
ONLY_IN_TROUBLE = frozenset({"trace_id", "span_id", "request_id"})
# What a client sent must not move the cursor or forge a line.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
QUEUE_MAX_LINES: Final = 5_000

Entry = Mapping[str, Any]


class Console:
    """`on_broken` is called when nobody reads the output any more."""

    def __init__(
        self, names: Sequence[str], *, out: TextIO, colour: bool, on_broken: Callable[[], None] = lambda: None
    ) -> None:
        self._width = max(map(len, (OURS, *names)))
        self._colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)} if colour else {}
        self._colour = colour
        self._out = out
        self._on_broken = on_broken
        self._queue: queue.Queue[str | None] = queue.Queue(QUEUE_MAX_LINES)
        self._dropped = 0
        self._thread = threading.Thread(target=self._write, name="console", daemon=True)
        self._thread.start()

    def line(self, name: str, line: bytes) -> None:
        """A line that a service wrote."""
        text = line.decode(errors="replace").rstrip("\r\n")
        if (entry := parsed(text)) is not None:
            if is_routine(entry):
                return
            text = rendered(entry, colour=self._colour)
        self._put("\n".join(f"{self._prefix(name)} {part}" for part in text.splitlines() or [""]))

    def event(self, name: str, sentence: str) -> None:
        """Something that happened to a service."""
        mark = f"{BOLD}{YELLOW}{sentence}{RESET}" if self._colour else sentence
        self._put(f"{self._prefix(name)} {mark}")

    def say(self, text: str) -> None:
        """Our own words, as they are."""
        self._put(text)

    def close(self) -> None:
        """Write what is left, for a second at most."""
        try:
            self._queue.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(1)

    def _prefix(self, name: str) -> str:
        colour = self._colours.get(name, "")
        return f"{colour}{name:<{self._width}} │{RESET if colour else ''}"

    def _put(self, text: str) -> None:
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._dropped += 1

    def _write(self) -> None:
        try:
            while (text := self._queue.get()) is not None:
                self._out.write(text + "\n")
                if self._queue.empty():
                    self._out.flush()
                if self._dropped:
                    self._out.write(f"{self._prefix(OURS)} {self._dropped} lines not shown, the terminal was held\n")
                    self._dropped = 0
            self._out.flush()
        except (OSError, ValueError):
            self._on_broken()


def parsed(line: str) -> Entry | None:
    """A log line's entry; None for what is no log line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and "event" in entry else None


def is_routine(entry: Entry) -> bool:
    """A request that comes when nobody does anything: a health check, whose asker tells, the settler's round, or
    the page's look."""
    last = str(entry.get("path")).rpartition("/")[2]
    return entry.get("event") == "request" and (
        last in HEALTH or (last in ROUNDS and entry.get("status") == HTTPStatus.OK)
    )


def rendered(entry: Entry, *, colour: bool) -> str:
    """An entry as a person reads it: time, level, event, then the rest as key=value."""
    level = str(entry.get("level", "info"))
    trouble = level in LEVELS
    placed = PLACED
    event = str(entry["event"])
    if event == "request" and entry.keys() >= OF_REQUESTS:
        placed = PLACED | OF_REQUESTS | {"route"}
        event = "{method} {path} {status} in {duration_ms} ms".format_map(entry)
    event = _CONTROL.sub(_escaped, event)
    if trouble and colour:
        event = f"{LEVELS[level]}{event}{RESET}"
    rest = " ".join(
        f"{key}={_shown(value)}"
        for key, value in entry.items()
        if key not in placed and (trouble or key not in ONLY_IN_TROUBLE)
    )
    parts = [_time(entry), f"{level:<7}", event, f"{DIM}{rest}{RESET}" if colour and rest else rest]
    first = " ".join(part for part in parts if part)
    below = str(entry.get("traceback") or "").splitlines()
    return "\n".join([first, *(f"    | {_CONTROL.sub(_escaped, part)}" for part in below)])


def wants_colour(out: TextIO, environ: Mapping[str, str] = os.environ) -> bool:
    """On a terminal, unless NO_COLOR says no; anywhere if FORCE_COLOR says yes."""
    if environ.get("NO_COLOR"):
        return False
    return bool(environ.get("FORCE_COLOR")) or (out.isatty() and environ.get("TERM") != "dumb")


def standard_output() -> TextIO:
    """Standard output that never fails on a character that the terminal's encoding lacks."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return sys.stdout


def _time(entry: Entry) -> str:
    try:
        return datetime.fromisoformat(str(entry.get("timestamp"))).astimezone().strftime("%H:%M:%S.%f")[:-3]
    except ValueError:
        return ""


def _shown(value: object) -> str:
    if isinstance(value, str):
        plain = value and not set(value) & set(' "=') and not _CONTROL.search(value)
        return value if plain else json.dumps(value)
    return json.dumps(value)


def _escaped(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]
