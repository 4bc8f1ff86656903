"""One line per event, as JSON or for a person's eyes; ours (structlog) and the libraries' (`logging`) alike.

    {"timestamp":"2026-11-22T21:47:21.183Z","level":"info","service":"conference","event":"settled",
     "trace_id":"…","span_id":"…","request_id":"…","confirmed":12}

Modules take a logger with `structlog.get_logger()`; `configure` says once per process where lines go. The
ids come from `context.py`, inside a request. A value cannot forge a line: JSON escapes line ends, and the pretty
form quotes control characters and indents tracebacks. Whatever looks like a credential is struck out of the
finished line, tracebacks included, whoever logged it: `_SECRETS`, and fields named in `_SECRET_FIELDS`.

Logging never fails: what cannot be written as it is is written as its `repr`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Literal

import msgspec
import structlog
from structlog.typing import EventDict

from tally.chassis import context as contexts

Format = Literal["auto", "json", "pretty"]

_LEVELS: Final = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}

# Struck out where they stand: user and password of an address, credentials of a header, JSON web tokens, and
# what follows `password=` and its like.
_SECRETS: Final = tuple(
    (hint, re.compile(expression), replacement)
    for hint, expression, replacement in (
        (b"://", rb"(://[^:/@\s\"\\]*):[^\s\"\\]*@", rb"\1:***@"),
        (b"earer ", rb"(?i)\b(bearer)\s+[A-Za-z0-9._~+/=-]+", rb"\1 ***"),
        (b"asic ", rb"\b([Bb]asic)\s+[A-Za-z0-9+/]{8,}=*", rb"\1 ***"),
        (b"eyJ", rb"eyJ[\w-]{4,}\.[\w-]+\.[\w-]*", rb"***"),
        (b"=", rb"(?i)\b((?:\w*password|passwd|\w*secret|\w*token|api_?key)=)[^\s&\"'\\]+", rb"\1***"),
    )
)
_SECRET_FIELDS: Final = frozenset(
    (
        "authorization",
        "password",
        "passwd",
        "secret",
        "token",
        "access_token",
        "api_key",
        "cookie",
        "set_cookie",
    )
)

# uvicorn speaks about each garbled request, each start and stop (this process says that itself); the exporter of spans,
# about each of its tries.
_TALKATIVE: Final = ("uvicorn.error", "uvicorn.access", "uvicorn.asgi", "opentelemetry.exporter")


class _Output:
    """Where lines go, and how: one per process, changed in place, so that loggers made before see it too."""

    service = "tally"
    level = _LEVELS["info"]
    pretty = False
    colours = False
    stream: BinaryIO | None = None
    captured: list[EventDict] | None = None

    def write(self, line: bytes) -> None:
        stream = self.stream or sys.stderr.buffer
        try:
            stream.write(line)
            stream.flush()
        except (OSError, ValueError):
            pass  # a reader that went away (a closed pipe) must not stop the service


_output: Final = _Output()


def configure(service: str, *, format: Format = "auto", level: str = "info", stream: BinaryIO | None = None) -> None:
    """Sends every line of this process to `stream` (standard error if None). May be called again."""
    terminal = (stream or sys.stderr).isatty()
    _output.service = service
    _output.level = _LEVELS[level]
    _output.pretty = format == "pretty" or (format == "auto" and terminal)
    _output.colours = terminal and not os.environ.get("NO_COLOR")
    _output.stream = stream
    _take_over_structlog()
    _take_over_stdlib()


@contextlib.contextmanager
def capture() -> Iterator[list[EventDict]]:
    """For tests: the events logged in the block, as dictionaries, instead of lines."""
    _take_over_structlog()
    before, _output.captured = _output.captured, []
    try:
        yield _output.captured
    finally:
        _output.captured = before


class Logger(structlog.BoundLoggerBase):
    """`log.info("settled", confirmed=12)`: an event, and what is to be known of it."""

    def debug(self, event: str, **fields: Any) -> None:
        self._log("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._log("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        self._log("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        self._log("error", event, fields)

    def critical(self, event: str, **fields: Any) -> None:
        self._log("critical", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        """At the level error, with the exception that is being handled."""
        fields.setdefault("exc_info", True)
        self._log("error", event, fields)

    def _log(self, level: str, event: str, fields: dict[str, Any]) -> None:
        if _LEVELS[level] < _output.level:
            return
        if self._context:
            fields = {**self._context, **fields}
        _emit(level, event, fields)


def _emit(level: str, event: str, fields: dict[str, Any]) -> None:
    line: EventDict = {"timestamp": _now(), "level": level, "service": _output.service, "event": event}
    if (context := contexts.current()) is not None:
        line["trace_id"] = context.trace_id
        line["span_id"] = context.span_id
        line["request_id"] = context.request_id
        if context.actor is not None:
            line["actor"] = context.actor
    if (error := fields.pop("exc_info", None)) is not None and (text := _traceback(error)):
        fields["traceback"] = text
    line.update(fields)
    if _output.captured is not None:
        _output.captured.append(line)
    else:
        _output.write(without_secrets(_rendered(line)))


def _rendered(line: EventDict) -> bytes:
    for name in _SECRET_FIELDS.intersection(line):
        line[name] = "***"
    try:
        return _pretty(line) if _output.pretty else _encode(line) + b"\n"
    except Exception:
        safe = {name: _safely(value) for name, value in line.items()}
        return _pretty(safe) if _output.pretty else _encode(safe) + b"\n"


_encode: Final = msgspec.json.Encoder(enc_hook=repr).encode


def _safely(value: object) -> object:
    try:
        return (value if isinstance(value, str) else repr(value)).encode("utf-8", "backslashreplace").decode()
    except Exception:
        return f"<{type(value).__name__} without a representation>"


def without_secrets(line: bytes) -> bytes:
    """`line` without what looks like a credential in it. For what is shown elsewhere than in the log, too."""
    for hint, expression, replacement in _SECRETS:
        if hint in line:
            line = expression.sub(replacement, line)
    return line


class _Second:
    """The text of the current second: `strftime` costs more than the rest of a line."""

    at = -1
    text = ""


def _now() -> str:
    second, ns = divmod(time.time_ns(), 1_000_000_000)
    if second != _Second.at:
        _Second.at, _Second.text = second, f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"
    return f"{_Second.text}.{ns // 1_000_000:03d}Z"


def _traceback(error: Any) -> str:
    if isinstance(error, tuple):
        error = error[1]
    if not isinstance(error, BaseException):
        error = sys.exc_info()[1]
    return "".join(traceback.format_exception(error)) if error is not None else ""


# --- for a person's eyes -------------------------------------------------------------------------------------------

_COLOURS: Final = {"debug": "2", "info": "32", "warning": "33", "error": "31", "critical": "1;31"}
_HIDDEN: Final = ("timestamp", "level", "service", "event", "traceback", "trace_id", "span_id")
_PLAIN: Final = re.compile(r"[^\s\"'=\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def _pretty(line: EventDict) -> bytes:
    """`21:47:21.183 info  conference  settled  confirmed=12`; the date and the trace are left to the JSON form."""
    level = line["level"]
    head = f"{line['timestamp'][11:23]} {_coloured(f'{level:8}', _COLOURS[level])} {line['service']:10} "
    event = _coloured(_CONTROL.sub(_escaped, str(line["event"])), "1")
    fields = "".join(f"  {name}={_quoted(value)}" for name, value in line.items() if name not in _HIDDEN)
    # Indented: no line of a traceback (an exception's message comes from anybody) can pass for a line of the log.
    below = "".join(f"\n    | {_CONTROL.sub(_escaped, part)}" for part in line.get("traceback", "").splitlines())
    return f"{head}{event}{_coloured(fields, '2')}{below}\n".encode()


def _quoted(value: object) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return value
    return _CONTROL.sub(_escaped, _encode(value).decode())


def _escaped(match: re.Match[str]) -> str:
    return repr(match[0])[1:-1]


def _coloured(text: str, code: str) -> str:
    return f"\x1b[{code}m{text}\x1b[0m" if _output.colours and text else text


# --- what others log -----------------------------------------------------------------------------------------------


class _Stdlib(logging.Handler):
    """Lets the lines of libraries go the same way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            message = record.getMessage()
        except Exception:
            message = str(record.msg)
        fields: dict[str, Any] = {"logger": record.name}
        if record.exc_info and record.exc_info[1] is not None:
            fields["exc_info"] = record.exc_info[1]
        _emit(_level_name(record.levelno), message, fields)


def _level_name(number: int) -> str:
    return next((name for name, least in reversed(_LEVELS.items()) if number >= least), "debug")


def _take_over_stdlib() -> None:
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _Stdlib)]:
        root.removeHandler(handler)
    root.addHandler(_Stdlib())
    root.setLevel(_output.level)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    logging.captureWarnings(True)


def _take_over_structlog() -> None:
    # (No processors and no factory of note: `Logger` does all by itself, for all loggers alike.)
    structlog.configure(wrapper_class=Logger, logger_factory=lambda *name: _output, cache_logger_on_first_use=True)
