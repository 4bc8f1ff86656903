"""Lines of the log: whose, when, in which request; and what must never be in one."""

import asyncio
import io
import json
import logging
import re
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from tally.chassis import context, logs

SECRET = "hunter2-canary"
JWT = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJnYXRld2F5In0.c2lnbmF0dXJl"


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


@pytest.fixture
def stream() -> io.BytesIO:
    return io.BytesIO()


@pytest.fixture
def lines(stream: io.BytesIO) -> Callable[[], list[dict[str, Any]]]:
    logs.configure("author", format="json", level="info", stream=stream)

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in stream.getvalue().splitlines()]

    return read


@pytest.fixture
def pretty(stream: io.BytesIO) -> Callable[[], str]:
    logs.configure("author", format="pretty", stream=stream)
    return lambda: stream.getvalue().decode()


Lines = Callable[[], list[dict[str, Any]]]


def log() -> Any:
    return structlog.get_logger("tests")


def test_a_line_says_what_when_where_and_how_bad(lines: Lines) -> None:
    log().info("settled", confirmed=12)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert line == {"level": "info", "service": "author", "event": "settled", "confirmed": 12}


def test_inside_a_request_a_line_has_its_ids(lines: Lines) -> None:
    here = context.fresh().with_actor("alice")
    with context.use(here):
        log().warning("late")
    log().info("outside")
    inside, outside = lines()
    assert {name: inside[name] for name in ("trace_id", "span_id", "request_id", "actor")} == {
        "trace_id": here.trace_id,
        "span_id": here.span_id,
        "request_id": here.request_id,
        "actor": "alice",
    }
    assert "trace_id" not in outside


def test_less_severe_lines_are_not_written(lines: Lines) -> None:
    log().debug("noise")
    assert lines() == []


def test_the_level_can_change_under_loggers_that_exist(lines: Lines, stream: io.BytesIO) -> None:
    mine = log()
    mine.info("before")
    logs.configure("author", format="json", level="error", stream=stream)
    mine.info("after")
    mine.error("bad")
    assert [line["event"] for line in lines()] == ["before", "bad"]


def test_bound_fields_are_in_every_line(lines: Lines) -> None:
    mine = log().bind(relationship="attendance")
    mine.info("one", n=1)
    mine.info("two", relationship="talk")
    assert [(line["relationship"], line.get("n")) for line in lines()] == [("attendance", 1), ("talk", None)]


def test_a_traceback_is_a_field(lines: Lines) -> None:
    try:
        raise ValueError("broken")
    except ValueError as error:
        log().exception("caught")
        caught = error
    log().error("later", exc_info=caught)
    for line in lines():
        assert line["level"] == "error"
        assert line["traceback"].startswith("Traceback (most recent call last):")
        assert line["traceback"].endswith("ValueError: broken\n")
        assert "exc_info" not in line


def test_libraries_go_the_same_way(lines: Lines) -> None:
    logging.getLogger("asyncpg").warning("pool %s", "is empty")
    try:
        raise OSError("gone")
    except OSError:
        logging.getLogger("aiohttp.client").exception("cannot read")
    pool, client = lines()
    assert (pool["event"], pool["logger"], pool["level"], pool["service"]) == (
        "pool is empty",
        "asyncpg",
        "warning",
        "author",
    )
    assert "OSError: gone" in client["traceback"]


def test_warnings_are_lines_too(lines: Lines) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old API", DeprecationWarning, stacklevel=1)
    assert "old API" in lines()[0]["event"]


def test_uvicorns_own_chatter_is_left_out(lines: Lines) -> None:
    logging.getLogger("uvicorn.error").info("Started server process [1]")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("uvicorn.error").error("Exception in ASGI application")
    assert [line["event"] for line in lines()] == ["Exception in ASGI application"]


def test_a_wrong_format_of_a_library_is_written_as_it_is(lines: Lines) -> None:
    root = logging.getLogger()  # without pytest's own handler, which insists on the format
    root.handlers[:] = [handler for handler in root.handlers if type(handler).__module__ == logs.__name__]
    logging.getLogger("odd").warning("%d items", "many")
    assert lines()[0]["event"] == "%d items"


def test_configuring_twice_writes_once(lines: Lines, stream: io.BytesIO) -> None:
    logs.configure("author", format="json", stream=stream)
    logging.getLogger("x").warning("once")
    assert len(lines()) == 1


@pytest.mark.parametrize("value", ["one\ntwo", "a\r\nb", '"}\n{"level":"error"', "\u2028", "\x00\x1b[2J", "\ud800"])
def test_no_value_can_forge_a_line_in_json(lines: Lines, stream: io.BytesIO, value: str) -> None:
    log().info(value, path=value)
    assert stream.getvalue().count(b"\n") == 1
    assert lines()[0]["level"] == "info"


@pytest.mark.parametrize("value", ["one\ntwo", "a\r\nb", "x\u2028y", "\x1b[2J", "\x85", "\ud800"])
def test_no_value_can_forge_a_line_in_the_pretty_form(pretty: Callable[[], str], value: str) -> None:
    log().info(value, path=value)
    try:
        raise ValueError(value)
    except ValueError:
        log().exception("failed")
    first, second, *below = pretty().split("\n")[:-1]
    assert "info" in first
    assert "failed" in second
    assert all(line.startswith("    | ") for line in below)
    assert not set(pretty()) & set("\r\x1b\x85\u2028\x00")


@given(st.text(st.characters()), st.text(st.characters()))
def test_whatever_is_logged_is_one_line(event: str, value: str) -> None:
    stream = io.BytesIO()
    for form in ("json", "pretty"):
        logs.configure("author", format=form, stream=stream)
        log().info(event, value=value)
    assert stream.getvalue().count(b"\n") == len(stream.getvalue().splitlines()) == 2


def test_the_pretty_form_is_for_reading(pretty: Callable[[], str]) -> None:
    log().info("settled", confirmed=12, reason="two words")
    assert re.fullmatch(
        r'\d\d:\d\d:\d\d\.\d{3} info     author     settled  confirmed=12  reason="two words"\n', pretty()
    )


def test_values_of_any_kind_can_be_logged(lines: Lines) -> None:
    class Odd:
        def __repr__(self) -> str:
            raise RuntimeError("no repr")

    some = uuid.uuid4()
    log().info("kinds", id=some, ok={"a": (1, 2)}, error=ValueError("x"), huge=10**40, key={(1, 2): 3}, odd=Odd())
    log().info("kinds", id=some, nested={"a": [b"\xff", None]})
    broken, fine = lines()
    assert broken["odd"] == "<Odd without a representation>"
    assert "ValueError('x')" in broken["error"]
    assert fine["id"] == str(some)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://tally:{SECRET}@db:5432/author",
        f"could not connect to postgresql://tally:{SECRET}@/author?host=/run",
        f"postgresql://:{SECRET}@db/author",
        f"Authorization: Bearer {SECRET}",
        f"bearer {SECRET}",
        f"host=db password={SECRET} user=tally",
        f"GET /x?access_token={SECRET}&limit=5",
        f"PGPASSWORD={SECRET}",
    ],
)
@pytest.mark.parametrize("form", ["json", "pretty"])
def test_no_credential_is_ever_written(stream: io.BytesIO, text: str, form: Any) -> None:
    logs.configure("author", format=form, stream=stream)
    log().info(text)
    log().info("field", value=text, nested={"deep": [text]})
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log().exception("failed")
    logging.getLogger("asyncpg").warning("said: %s", text)
    assert SECRET not in stream.getvalue().decode()
    assert stream.getvalue().count(b"***") >= 4


def test_tokens_and_secret_fields_are_struck_out(lines: Lines, stream: io.BytesIO) -> None:
    log().info(f"token {JWT} came", authorization=f"Bearer {JWT}", password=SECRET, token=SECRET)
    assert JWT.split(".")[1].encode() not in stream.getvalue()
    assert SECRET.encode() not in stream.getvalue()
    assert lines()[0]["password"] == "***"


def test_what_is_no_credential_stays(lines: Lines) -> None:
    address = "http://127.0.0.1:8070/author?after=x"
    log().info("serving", url=address, basic="basic income", n="token bucket")
    (line,) = lines()
    assert (line["url"], line["basic"], line["n"]) == (address, "basic income", "token bucket")


def test_a_reader_that_went_away_does_not_stop_the_service() -> None:
    class Closed(io.BytesIO):
        def write(self, data: object) -> int:
            raise BrokenPipeError

    logs.configure("author", format="json", stream=Closed())
    log().info("nobody reads this")


def test_auto_is_json_where_nobody_watches(stream: io.BytesIO) -> None:
    logs.configure("author", format="auto", stream=stream)
    log().info("x")
    json.loads(stream.getvalue())


def test_auto_is_coloured_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    logs.configure("author", format="auto", stream=(terminal := Terminal()))
    log().error("bad")
    assert b"\x1b[31merror   \x1b[0m" in terminal.getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    logs.configure("author", format="auto", stream=(terminal := Terminal()))
    log().error("bad")
    assert b"\x1b" not in terminal.getvalue()


def test_events_can_be_captured(lines: Lines) -> None:
    with logs.capture() as events:
        log().info("settled", confirmed=1)
    assert [(event["event"], event["confirmed"]) for event in events] == [("settled", 1)]
    assert lines() == []


async def test_lines_of_concurrent_requests_keep_their_ids(lines: Lines) -> None:
    async def request(name: str) -> None:
        with context.use(context.arrived([(b"x-request-id", name.encode())], 0.0, 2.0)):
            await asyncio.sleep(0)
            log().info(name)

    await asyncio.gather(*(request(f"r{n}") for n in range(5)))
    assert all(line["event"] == line["request_id"] for line in lines())
