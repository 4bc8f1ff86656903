"""What `tally run` shows of the services' log lines."""

import io
import json
import threading
from collections.abc import Callable

import pytest

from tally.local.console import QUEUE_MAX_LINES, Console, rendered, wants_colour

LINE = {
    "timestamp": "2026-11-22T21:47:21.183Z",
    "level": "info",
    "service": "author",
    "event": "request",
    "trace_id": "ab" * 16,
    "request_id": "r1",
    "path": "/author",
    "status": 201,
}


def read(**fields: object) -> str:
    """What a person reads of a log line."""
    return rendered(LINE | fields, colour=False)


def shown(write: Callable[[Console], None], *, colour: bool = False) -> str:
    out = io.StringIO()
    console = Console(["author", "conference"], out=out, colour=colour)
    write(console)
    console.close()
    return out.getvalue()


def test_a_json_line_becomes_time_level_event_and_the_rest() -> None:
    text = read()
    assert text.endswith("info    request path=/author status=201")
    assert text[2] == text[5] == ":"


def test_ids_are_shown_only_when_something_went_wrong() -> None:
    assert "trace_id" not in read()
    assert "request_id=r1" in read(level="error")


@pytest.mark.parametrize("line", ["Traceback (most recent call last):", "[1, 2]", '{"no": "event"}', "", "{", "null"])
def test_what_is_no_log_line_is_shown_as_it_is(line: str) -> None:
    assert shown(lambda console: console.line("author", line.encode())) == f"author     │ {line}\n"


def test_a_request_reads_like_a_request() -> None:
    assert read(method="POST", route="/author", duration_ms=3.2).endswith("info    POST /author 201 in 3.2 ms")


def test_health_checks_are_not_shown() -> None:
    line = LINE | {"path": "/readyz", "status": 503}
    assert shown(lambda console: console.line("author", json.dumps(line).encode())) == ""


@pytest.mark.parametrize("path", ["/internal/attendance/close", "/internal/attendance/forward"])
def test_what_happens_every_second_is_shown_only_when_it_fails(path: str) -> None:
    line = LINE | {"path": path, "status": 200}
    assert shown(lambda console: console.line("author", json.dumps(line).encode())) == ""
    assert path in shown(lambda console: console.line("author", json.dumps(line | {"status": 503}).encode()))


def test_a_traceback_is_indented_below_its_line() -> None:
    text = read(traceback="Traceback\n  ValueError: \u001b[2Jx\n")
    assert text.splitlines()[1:] == ["    | Traceback", r"    |   ValueError: \x1b[2Jx"]


def test_a_value_cannot_move_the_cursor_or_forge_a_line() -> None:
    text = read(event="a\nb", name="x\u001b[31m\ny")
    assert "\n" not in text
    assert "\u001b" not in text


def test_each_service_has_its_prefix_and_colour() -> None:
    def two_lines(console: Console) -> None:
        console.line("author", b"one\n")
        console.line("conference", b"two\n")

    plain = shown(two_lines)
    assert plain == "author     │ one\nconference │ two\n"
    coloured = shown(two_lines, colour=True)
    first, second = (line.split("author")[0].split("conference")[0] for line in coloured.splitlines())
    assert first.startswith("\033[")
    assert first != second


def test_a_line_that_is_not_utf_8_is_shown() -> None:
    assert shown(lambda console: console.line("author", b"caf\xe9\n")) == "author     │ caf\N{REPLACEMENT CHARACTER}\n"


def test_a_held_terminal_drops_lines_and_says_how_many() -> None:
    class Held(io.StringIO):
        def write(self, text: str) -> int:
            taken.set()
            held.wait(10)
            return super().write(text)

    held, taken = threading.Event(), threading.Event()
    out = Held()
    console = Console(["author"], out=out, colour=False)
    console.say("first")
    assert taken.wait(10)
    for number in range(QUEUE_MAX_LINES + 7):
        console.say(str(number))
    held.set()
    console.close()
    assert "7 lines not shown" in out.getvalue()


def test_a_reader_that_went_away_is_told_once() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    broken = threading.Event()
    console = Console(["author"], out=Broken(), colour=False, on_broken=broken.set)
    console.say("hello")
    assert broken.wait(10)


def test_colour_is_for_terminals_unless_the_user_says() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert wants_colour(Terminal(), {})
    assert not wants_colour(Terminal(), {"NO_COLOR": "1"})
    assert not wants_colour(Terminal(), {"TERM": "dumb"})
    assert not wants_colour(io.StringIO(), {})
    assert wants_colour(io.StringIO(), {"FORCE_COLOR": "1"})
