"""A service as its clients and its platform meet it: real sockets, and for its beginning and end, real processes."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import ssl
import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tally.chassis import app, connection, context, logs
from tally.chassis.app import PortTaken, Service, running
from tally.chassis.body import json_body
from tally.chassis.clock import SystemClock
from tally.chassis.database_faults import DatabaseUnavailable, PoolExhausted
from tally.chassis.http import BACKGROUND, HELD_BACK_S, Route, json_response
from tally.chassis.problems import Problem
from tally.chassis.settings import ServiceSettings
from tally.chassis.signals import Signals
from tests.unit.chassis.test_client import certificate

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Settings(ServiceSettings, frozen=True, kw_only=True):
    port: int = 0
    body_max_bytes: int = 2048


class Named(msgspec.Struct):
    full_name: str


# --- a service to try things on


class Trial:
    """Its handlers, and what they saw."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.entered = asyncio.Event()
        self.release = asyncio.Event()

    async def echo(self, request: Request) -> Response:
        self.seen.append("echo")
        here = context.current()
        assert here is not None
        assert here.deadline is not None
        left_s = here.deadline.left_s(SystemClock().monotonic_s())
        return json_response({"trace": here.trace_id, "request": here.request_id, "left_s": left_s})

    async def create(self, request: Request) -> Response:
        return json_response({"name": (await json_body(request, Named)).full_name}, 201)

    async def swallow(self, request: Request) -> Response:
        return json_response({"bytes": len(await request.body())})

    async def hold(self, request: Request) -> Response:
        begun_s = SystemClock().monotonic_s()
        await asyncio.sleep(float(request.path_params["seconds"]))
        request.scope[HELD_BACK_S] = SystemClock().monotonic_s() - begun_s
        return json_response({})

    async def wait(self, request: Request) -> Response:
        self.entered.set()
        await self.release.wait()
        return json_response({"done": True})

    async def fail(self, request: Request) -> Response:
        match request.path_params["how"]:
            case "bug":
                raise LookupError("postgresql://tally:hunter2@db")
            case "problem":
                raise Problem("event-full", "The event is full.", service="conference")
            case "framework":
                raise HTTPException(404)
            case "pool":
                raise PoolExhausted("all busy", nothing_done=True)
            case _:
                raise DatabaseUnavailable("hung up", nothing_done=False)

    async def background(self, request: Request) -> Response:
        request.scope[BACKGROUND] = True
        if request.path_params["how"] == "badly":
            raise Problem("service-unavailable", "It is away.")
        return json_response({})

    async def half(self, request: Request) -> Response:
        async def parts() -> AsyncIterator[bytes]:
            yield b"half"
            raise LookupError("in the middle")

        return StreamingResponse(parts())

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/echo", self.echo, "What it sees"),
            Route("POST", "/author", self.create, "Create", request=Named, status=201),
            Route("POST", "/swallow", self.swallow, "Read anything"),
            Route("GET", "/hold/{seconds}", self.hold, "Hold back"),
            Route("GET", "/wait", self.wait, "Wait"),
            Route("POST", "/wait", self.wait, "Wait"),
            Route("GET", "/fail/{how}", self.fail, "Fail"),
            Route("POST", "/fail/{how}", self.fail, "Fail"),
            Route("GET", "/background/{how}", self.background, "Ask all the time"),
            Route("GET", "/half", self.half, "Half"),
        ]


@dataclass
class Running:
    trial: Trial
    signals: Signals
    url: str
    admin_url: str

    def exposition(self) -> str:
        return self.signals.exposition("")[0].decode()

    def count(self, **labels: str) -> float:
        """The requests measured with these labels."""
        shown = ",".join(f'http_{name}="{value}"' for name, value in sorted(labels.items()))
        for line in self.exposition().splitlines():
            if line.startswith(f"http_server_request_duration_seconds_count{{{shown}}}"):
                return float(line.rsplit(" ", 1)[1])
        return 0.0


@asynccontextmanager
async def up(settings: Settings | None = None, signals: Signals | None = None, **more: Any) -> AsyncIterator[Running]:
    trial, signals = Trial(), signals or Signals("trial")
    internal = [Route("POST", "/internal/x", trial.echo, "For services only")]
    service = Service(
        name="trial",
        settings=settings or Settings(),
        signals=signals,
        routes=trial.routes(),
        internal_routes=internal,
        admin_routes=[Route("GET", "/admin/x", trial.echo, "For operators")],
        **more,
    )
    async with running(service) as addresses:
        yield Running(trial, signals, addresses.url, addresses.admin_url)


@pytest.fixture
async def service() -> AsyncIterator[Running]:
    async with up() as found:
        yield found


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def connected(url: str, tls: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(url)
    return await asyncio.open_connection(address.hostname, address.port, ssl=tls)


async def answered(reader: asyncio.StreamReader) -> Answer:
    head = await reader.readuntil(b"\r\n\r\n")
    line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (one.split(": ", 1) for one in lines if one)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Answer(int(line.split()[1]), headers, body)


async def sent(url: str, raw: bytes, tls: ssl.SSLContext | None = None) -> Answer:
    reader, writer = await connected(url, tls)
    writer.write(raw)
    try:
        async with asyncio.timeout(10):
            return await answered(reader)
    finally:
        writer.close()


async def ask(
    url: str,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: test",
        *(f"{name}: {value}" for name, value in (headers or {}).items()),
    ]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return await sent(url, "\r\n".join(lines).encode() + b"\r\n\r\n" + (body or b""), tls)


# --- the stack


async def test_each_answer_has_the_requests_id(service: Running) -> None:
    mine = {"X-Request-Id": "mine"}
    assert (await ask(service.url, "/echo", headers=mine)).headers["x-request-id"] == "mine"
    assert (await ask(service.url, "/nowhere", headers=mine)).headers["x-request-id"] == "mine"
    answer = await ask(service.url, "/fail/bug")
    assert answer.headers["x-request-id"] == answer.json["request_id"]


async def test_a_request_brings_its_trace_and_its_deadline(service: Running) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Deadline-Ms": "500"}
    seen = (await ask(service.url, "/echo", headers=headers)).json
    assert seen["trace"] == TRACE
    assert 0 < seen["left_s"] <= 0.5
    assert 1.0 < (await ask(service.url, "/echo")).json["left_s"] <= 2.0


async def test_work_that_arrives_late_is_refused_without_being_done(service: Running) -> None:
    answer = await ask(service.url, "/echo", headers={"X-Deadline-Ms": "0"})
    assert (answer.status, answer.json["code"]) == (504, "deadline-exceeded")
    assert service.trial.seen == []


async def test_wrong_paths_and_methods_are_problems(service: Running) -> None:
    answer = await ask(service.url, "/nowhere")
    assert (answer.status, answer.json["code"]) == (404, "no-such-path")
    assert answer.headers["content-type"] == "application/problem+json"
    answer = await ask(service.url, "/author", "PUT", body=b"{}")
    assert (answer.status, answer.json["code"], answer.headers["allow"]) == (405, "method-not-allowed", "POST")
    assert (await ask(service.url, "/echo/")).status == 404


@pytest.mark.parametrize(
    ("method", "how", "status", "code"),
    [
        ("GET", "problem", 409, "event-full"),
        ("GET", "framework", 500, "internal"),
        ("GET", "pool", 503, "overloaded"),
        ("POST", "pool", 503, "overloaded"),
        ("GET", "database", 503, "service-unavailable"),
        ("POST", "database", 504, "outcome-unknown"),
        ("GET", "bug", 500, "internal"),
    ],
)
async def test_whatever_is_raised_becomes_a_problem(
    service: Running, method: str, how: str, status: int, code: str
) -> None:
    answer = await ask(service.url, f"/fail/{how}", method)
    assert (answer.status, answer.json["code"]) == (status, code)


async def test_a_bug_is_logged_with_its_request_and_told_to_nobody(service: Running) -> None:
    with logs.capture() as events:
        answer = await ask(service.url, "/fail/bug", headers={"X-Request-Id": "mine"})
    assert b"LookupError" not in answer.body
    assert b"hunter2" not in answer.body
    (bug,) = (event for event in events if event["event"] == "unexpected error")
    assert bug["request_id"] == "mine"
    assert "LookupError" in bug["traceback"]


async def test_half_an_answer_is_cut_off(service: Running) -> None:
    reader, writer = await connected(service.url)
    writer.write(b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n")
    everything = await reader.read()
    writer.close()
    assert b"half" in everything
    assert not everything.endswith(b"0\r\n\r\n")


async def test_an_answer_that_was_held_back_because_its_caller_asked_for_that_is_not_late(service: Running) -> None:
    await ask(service.url, "/hold/0.3")
    [line] = re.findall(r'_duration_seconds_bucket\{[^}]*"/hold/\{seconds\}",le="0.25"\} (.+)', service.exposition())
    assert float(line) == 1


async def test_requests_are_measured_by_route_and_not_by_path(service: Running) -> None:
    for path in ("/fail/problem", "/fail/pool", "/a", "/b"):
        await ask(service.url, path)
    await ask(service.url, "/author", "BREW")
    assert service.count(request_method="GET", response_status_code="409", route="/fail/{how}") == 1
    assert service.count(request_method="GET", response_status_code="404", route="unmatched") == 2
    await ask(service.url, "/author", "LINK")
    assert service.count(request_method="_OTHER", response_status_code="405", route="/author") == 1


@pytest.mark.parametrize(
    ("access_log", "logged"), [("errors", ["/fail/pool"]), ("all", ["/echo", "/nowhere", "/fail/pool"])]
)
async def test_the_access_log_is_as_set(access_log: Any, logged: list[str]) -> None:
    async with up(Settings(access_log=access_log)) as service:
        with logs.capture() as events:
            for path in ("/echo", "/nowhere", "/fail/pool"):
                await ask(service.url, path)
            await ask(service.admin_url, "/readyz")
    lines = [event for event in events if event["event"] == "request" and event["path"] != "/readyz"]
    assert [line["path"] for line in lines] == logged
    assert lines[-1]["status"] == 503
    assert lines[-1]["route"] == "/fail/{how}"
    assert lines[-1]["duration_ms"] > 0


async def test_what_an_agent_asks_all_the_time_is_no_line_when_it_is_answered_well() -> None:
    async with up(Settings(access_log="all")) as service:
        with logs.capture() as events:
            await ask(service.url, "/background/well")
            await ask(service.url, "/background/badly")
    assert [event["path"] for event in events if event["event"] == "request"] == ["/background/badly"]


async def test_a_request_that_outlived_its_deadline_is_logged() -> None:
    async with up(Settings(request_deadline_s=0.01)) as service:
        with logs.capture() as events:
            task = asyncio.create_task(ask(service.url, "/wait"))
            await service.trial.entered.wait()
            await asyncio.sleep(0.02)
            service.trial.release.set()
            await task
    assert [event["route"] for event in events if event["event"] == "request"] == ["/wait"]


async def test_a_body_that_says_it_is_too_large_is_not_read(service: Running) -> None:
    answer = await sent(service.url, b"POST /author HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n{")
    assert (answer.status, answer.json["code"]) == (413, "body-too-large")
    answer = await sent(
        service.url, b"POST /author HTTP/1.1\r\nHost: x\r\nContent-Length: 1" + b"0" * 18 + b"\r\n\r\n{"
    )
    assert answer.status == 413


async def test_a_body_that_turns_out_too_large_is_cut_off(service: Running) -> None:
    head = b"POST /swallow HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    small = b"400\r\n" + b"x" * 1024 + b"\r\n"
    answer = await sent(service.url, head + small + b"0\r\n\r\n")
    assert answer.json == {"bytes": 1024}
    answer = await sent(service.url, head + small * 3)
    assert (answer.status, answer.json["code"]) == (413, "body-too-large")


async def test_the_body_needs_no_content_type(service: Running) -> None:
    answer = await ask(service.url, "/author", "POST", body=b'{"full_name":"Alan Turing"}')
    assert (answer.status, answer.json) == (201, {"name": "Alan Turing"})


async def test_the_api_describes_itself_and_not_what_is_internal(service: Running) -> None:
    document = (await ask(service.url, "/openapi.json")).json
    assert "/author" in document["paths"]
    assert "/internal/x" not in document["paths"]
    assert document["info"]["title"] == "Tally: trial"
    assert (await ask(service.url, "/docs")).headers["content-type"].startswith("text/html")
    assert (await ask(service.url, "/internal/x", "POST")).status == 200


async def test_the_admin_port_has_health_metrics_and_what_the_service_adds(service: Running) -> None:
    assert (await ask(service.admin_url, "/livez")).json == {"status": "ok"}
    assert (await ask(service.admin_url, "/startupz")).status == 200
    assert (await ask(service.admin_url, "/admin/x")).status == 200
    assert (await ask(service.admin_url, "/author", "POST", body=b"{}")).status == 404
    metrics = await ask(service.admin_url, "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
    assert metrics.headers["content-type"].startswith("application/openmetrics-text")
    for path in ("/livez", "/readyz", "/metrics", "/admin/x"):
        assert (await ask(service.url, path)).status == 404


async def test_a_request_is_one_span_named_by_its_route() -> None:
    exporter = InMemorySpanExporter()
    signals = Signals("trial", span_exporter=exporter)
    async with up(signals=signals) as service:
        await ask(service.url, "/fail/pool", headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        await ask(service.url, "/echo", headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
        metrics = signals.exposition("application/openmetrics-text; version=1.0.0")[0].decode()
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /fail/{how}"
    assert span.attributes == {"http.route": "/fail/{how}", "http.response.status_code": 503}
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == PARENT
    assert metrics.count(f'# {{trace_id="{TRACE}"}}') == 1


# --- the listeners

POST = b"POST /author HTTP/1.1\r\nHost: x\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"


@pytest.mark.parametrize(
    "raw",
    [
        b"GARBAGE\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /author HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /author HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /echo HTTP/1.1\r\n" + b"a: b\r\n" * 200 + b"\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_a_head_that_is_no_head_is_a_problem_and_the_end_of_the_connection(service: Running, raw: bytes) -> None:
    reader, writer = await connected(service.url)
    writer.write(raw)
    async with asyncio.timeout(5):
        answer = await answered(reader)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert (answer.status, answer.json["code"]) == (400, "bad-request")
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await ask(service.url, "/echo")).status == 200


@pytest.mark.parametrize(
    "garbage", [b"GARBAGE\r\n\r\n", POST + b"Transfer-Encoding: chunked\r\n\r\nzz"], ids=["head", "body"]
)
@pytest.mark.parametrize("before", [1, 3])
async def test_what_came_before_something_that_is_no_request_has_its_own_answer(
    service: Running, garbage: bytes, before: int
) -> None:
    """It is carried out: whoever is told 400 would send it again."""
    reader, writer = await connected(service.url)
    writer.write((POST + b'Content-Length: 19\r\n\r\n{"full_name":"Ada"}') * before + garbage)
    async with asyncio.timeout(5):
        assert [(await answered(reader)).status for _ in range(before)] == [201] * before
        assert await reader.read() == b""
    writer.close()


async def test_what_cannot_be_parsed_behind_an_offer_of_http_2_is_a_problem(service: Running) -> None:
    answer = await sent(service.url, POST + H2C + b"Transfer-Encoding: gzip\r\n\r\nhello")
    assert (answer.status, answer.json["code"]) == (400, "bad-request")


@pytest.mark.parametrize("begin", [b"", b"GET /ec", b"GET /echo HTTP/1.1\r\nHost:"])
async def test_who_takes_too_long_for_a_head_is_hung_up_on(
    service: Running, monkeypatch: pytest.MonkeyPatch, begin: bytes
) -> None:
    monkeypatch.setattr(connection, "_HEAD_S", 0.1)
    reader, writer = await connected(service.url)
    writer.write(begin)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()
    assert (await ask(service.url, "/echo")).status == 200


async def test_who_takes_too_long_for_a_body_is_hung_up_on(service: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "_BODY_S", 0.1)
    reader, writer = await connected(service.url)
    writer.write(b"POST /swallow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_an_idle_connection_that_was_used_is_left_alone(
    service: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_HEAD_S", 0.1)
    monkeypatch.setattr(connection, "_BODY_S", 0.1)
    reader, writer = await connected(service.url)
    for _ in range(2):
        writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answered(reader)).status == 200
        await asyncio.sleep(1.3)
    writer.close()


@pytest.mark.parametrize("pause_s", [0.0, 0.05])
@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 19\r\n", b'{"full_name":"Ada"}'),
        (b"Transfer-Encoding: chunked\r\n", b'5\r\n{"ful\r\ne\r\nl_name":"Ada"}\r\n0\r\n\r\n'),
    ],
)
async def test_the_body_of_who_offers_http_2_is_not_lost(
    service: Running, framing: bytes, body: bytes, pause_s: float
) -> None:
    head = b"POST /author HTTP/1.1\r\nHost: x\r\n" + H2C + framing + b"\r\n"
    reader, writer = await connected(service.url)
    for _ in range(3):  # and the connection goes on
        for part in (head, body[:7], body[7:]):
            writer.write(part)
            await asyncio.sleep(pause_s)
        assert (await answered(reader)).json == {"name": "Ada"}
        writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n" + H2C + b"\r\n")
        assert (await answered(reader)).status == 200
    writer.write(head + body + b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert [(await answered(reader)).status for _ in range(2)] == [201, 200]
    writer.close()


async def test_tls_is_a_setting(tmp_path: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    settings = Settings(tls_cert_file=str(certificate_file), tls_key_file=str(key_file))
    client = ssl.create_default_context(cafile=str(certificate_file))
    old = ssl.create_default_context(cafile=str(certificate_file))
    async with up(settings) as service:
        assert service.url.startswith("https://")
        assert (await ask(service.url, "/echo", tls=client)).status == 200
        assert (await ask(service.admin_url, "/livez", tls=client)).status == 200
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(service.url, "/echo", tls=old)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await ask(service.url, "/echo")


async def test_an_ipv6_address_can_be_listened_on() -> None:
    async with up(Settings(host="::1")) as service:
        assert service.url.startswith("http://[::1]:")
        assert (await ask(service.url, "/echo")).status == 200


@pytest.mark.parametrize(("taken", "variable"), [("port", "TALLY_PORT"), ("admin_port", "TALLY_ADMIN_PORT")])
async def test_a_port_that_is_taken_is_a_sentence_with_the_variable_to_set(taken: str, variable: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = Settings(**({"port": 0} | {taken: port}))
        if taken == "port":
            settings = msgspec.structs.replace(settings, admin_port=0)
        with pytest.raises(
            PortTaken, match=f"Cannot listen on 127.0.0.1 port {port} .* set {variable} to another port"
        ):
            async with up(settings):
                pass


async def test_a_port_that_was_taken_meanwhile_is_the_same_sentence() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", 0))

        @asynccontextmanager
        async def lifespan() -> AsyncIterator[None]:
            other.listen()
            yield

        settings = Settings(port=other.getsockname()[1], admin_port=0)
        with pytest.raises(PortTaken, match="set TALLY_PORT"):
            async with up(settings, lifespan=lifespan):
                pass


# --- beginning and end


async def test_until_it_has_started_it_is_alive_and_nothing_else() -> None:
    database = asyncio.Event()
    entered: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        await database.wait()
        yield

    async def check() -> None:
        if not database.is_set():
            raise RuntimeError("the database is away")

    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, admin_port = one.getsockname()[1], other.getsockname()[1]
    url, admin_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{admin_port}"

    async def run() -> None:
        settings = Settings(port=port, admin_port=admin_port)
        async with up(settings, lifespan=lifespan, checks={"database": check}) as service:
            entered.set_result((service.url, service.admin_url))
            await asyncio.Event().wait()

    async with asyncio.timeout(10):
        task = asyncio.create_task(run())
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                assert (await ask(admin_url, "/livez")).status == 200
                break
        starting = await ask(admin_url, "/startupz")
        assert (starting.status, starting.json["failed"]) == (503, {"database": "the database is away"})
        assert (await ask(admin_url, "/readyz")).status == 503
        with pytest.raises(ConnectionRefusedError):
            await ask(url, "/echo")
        database.set()
        assert await entered == (url, admin_url)
        assert (await ask(admin_url, "/startupz")).status == 200
        assert (await ask(admin_url, "/readyz")).status == 200
        assert (await ask(url, "/echo")).status == 200
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_stopping_finishes_what_is_in_flight() -> None:
    left: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        yield
        left.append("lifespan")

    stop = asyncio.Event()
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def run() -> None:
        async with up(lifespan=lifespan, drain_s=0.3) as service:
            started.set_result(service)
            await stop.wait()

    async with asyncio.timeout(10):
        task = asyncio.create_task(run())
        service = await started
        idle, idle_writer = await connected(service.url)
        idle_writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await answered(idle)).status == 200
        in_flight = asyncio.create_task(ask(service.url, "/wait", "POST"))
        await service.trial.entered.wait()
        stop.set()
        await asyncio.sleep(0.05)
        # While it drains it says so, and still answers.
        assert (await ask(service.admin_url, "/readyz")).json == {"status": "stopping"}
        assert (await ask(service.url, "/echo")).status == 200
        assert await idle.read() == b""
        with pytest.raises(ConnectionRefusedError):
            await ask(service.url, "/echo")
        assert (await ask(service.admin_url, "/livez")).status == 200
        assert left == []
        service.trial.release.set()
        answer = await in_flight
        assert (answer.json, answer.headers["connection"]) == ({"done": True}, "close")
        await task
        idle_writer.close()
    assert left == ["lifespan"]


@pytest.mark.parametrize(("method", "code"), [("POST", "outcome-unknown"), ("GET", "service-unavailable")])
async def test_what_cannot_be_finished_in_time_is_told_the_truth(method: str, code: str) -> None:
    async with asyncio.timeout(15):
        async with up(Settings(shutdown_grace_s=0.5)) as service:
            in_flight = asyncio.create_task(ask(service.url, "/wait", method))
            await service.trial.entered.wait()
        answer = await in_flight
    assert (answer.json["code"], answer.headers["connection"]) == (code, "close")


async def test_an_agent_that_dies_ends_the_service() -> None:
    broke = asyncio.Event()

    async def agent() -> None:
        await broke.wait()
        raise LookupError("the settler is lost")

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            group.create_task(agent())
            yield

    with pytest.RaisesGroup(LookupError):
        async with asyncio.timeout(10), up(lifespan=lifespan) as service:
            assert (await ask(service.url, "/echo")).status == 200
            broke.set()
            await asyncio.Event().wait()


# --- processes

PROGRAM = textwrap.dedent("""
    import asyncio
    import contextlib
    from typing import Annotated

    from msgspec import Meta

    from tally.chassis.app import Service, main
    from tally.chassis.database import Database
    from tally.chassis.http import Route, json_response
    from tally.chassis.migrate import Schema, Source
    from tally.chassis.settings import SECRET, ServiceSettings


    class Settings(ServiceSettings, frozen=True, kw_only=True):
        port: int = 8070
        database_url: Annotated[str, Meta(extra=SECRET)]
        pool_min: int = 1
        pool_max: int = 4
        pool_wait_s: float = 0.5
        dies: bool = False


    MIGRATIONS = [Source("author", [("0001_author.sql", "CREATE TABLE author (id int)")])]


    def build(settings, signals):
        database = Database.of(settings, "author", signals)
        schema = Schema(database, MIGRATIONS)

        async def count(request):
            return json_response({"authors": await database.fetchval("SELECT count(*) FROM author")})

        async def slow(request):
            await asyncio.sleep(1)
            return json_response({"done": True})

        async def agent():
            if settings.dies:
                raise LookupError("lost")

        @contextlib.asynccontextmanager
        async def lifespan():
            await database.start()
            await schema.wait()
            async with asyncio.TaskGroup() as group:
                group.create_task(agent())
                yield
            await database.close()

        return Service(
            name="author",
            settings=settings,
            signals=signals,
            routes=[Route("GET", "/author", count, "Count"), Route("POST", "/slow", slow, "Slow")],
            lifespan=lifespan,
            checks={"database": database.check, "schema": schema.check},
        )


    main("author", Settings, build, MIGRATIONS)
""")


class Process:
    """A service process; its log as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []

    async def until(self, event: str) -> dict[str, Any]:
        assert self.process.stderr is not None
        async with asyncio.timeout(30):
            while line := await self.process.stderr.readline():
                self.lines.append(json.loads(line))
                if self.lines[-1]["event"] == event:
                    return self.lines[-1]
        raise AssertionError(f"it ended without saying {event!r}: {self.lines}")

    async def ended(self) -> tuple[int, str, str]:
        async with asyncio.timeout(30):
            out, err = await self.process.communicate()
        return self.process.returncode or 0, out.decode(), err.decode()


Started = Callable[..., Any]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Started]:
    program = tmp_path / "service.py"
    program.write_text(PROGRAM)
    processes: list[Process] = []

    async def started(*args: str, **settings: str) -> Process:
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(app.__file__).parents[2])}
        environ |= {f"TALLY_{name.upper()}": value for name, value in settings.items()}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            program,
            *args,
            env=environ,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(Process(process))
        return processes[-1]

    yield started
    for one in processes:
        with contextlib.suppress(ProcessLookupError):
            one.process.kill()
        await one.process.communicate()


async def test_a_bad_setting_ends_it_with_its_name(start: Started) -> None:
    process = await start(port="eighty", database_url="x")
    code, _, err = await process.ended()
    assert code == 2
    assert err.startswith("TALLY_PORT must be ")
    assert "Traceback" not in err


async def test_a_taken_port_ends_it_with_one_sentence(start: Started) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        process = await start(port=port, admin_port="0", database_url="postgresql://tally@127.0.0.1:9/own")
        code, _, err = await process.ended()
    assert code == 1
    assert err.count("\n") == 1
    assert f"port {port}" in err
    assert "TALLY_PORT" in err


async def test_another_command_is_told_the_commands(start: Started) -> None:
    code, _, err = await (await start("destroy")).ended()
    assert code == 1
    assert "[serve | migrate]" in err


async def test_migrate_serve_and_stop(start: Started, dsn: Callable[[], str]) -> None:
    settings = {"port": "0", "database_url": dsn(), "log_format": "json"}
    assert (await (await start("migrate", **settings)).ended())[:2] == (0, "applied author/0001_author.sql\n")
    assert (await (await start("migrate", **settings)).ended())[:2] == (0, "Nothing to do.\n")
    process = await start(**settings)
    serving = await process.until("serving")
    assert serving["service"] == "author"
    assert (await ask(serving["url"], "/author")).json == {"authors": 0}
    assert (await ask(serving["admin"], "/readyz?verbose")).json["passed"] == {"database": "ok", "schema": "ok"}
    in_flight = asyncio.create_task(ask(serving["url"], "/slow", "POST"))
    await asyncio.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)
    assert (await in_flight).json == {"done": True}
    code, _, err = await process.ended()
    assert code == 0
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["stopping", "stopped"]


async def test_migrate_asks_only_for_the_settings_that_it_uses(start: Started, dsn: Callable[[], str]) -> None:
    unused = {"port": "eighty", "tls_cert_file": "/nowhere", "pool_max": "none"}
    assert (await (await start("migrate", database_url=dsn(), **unused)).ended())[:2] == (
        0,
        "applied author/0001_author.sql\n",
    )
    assert (await (await start(database_url=dsn(), **unused)).ended())[0] == 2
    code, _, err = await (await start("migrate", databse_url="x", log_level="loud")).ended()
    assert code == 2
    assert {line.split()[0] for line in err.splitlines()} == {
        "TALLY_DATABASE_URL",
        "TALLY_LOG_LEVEL",
        "TALLY_DATABSE_URL",
    }


async def test_a_second_signal_ends_it_at_once(start: Started, dsn: Callable[[], str]) -> None:
    url = dsn()
    await (await start("migrate", database_url=url)).ended()
    process = await start("serve", port="0", database_url=url)
    serving = await process.until("serving")
    in_flight = asyncio.create_task(ask(serving["url"], "/slow", "POST"))
    await asyncio.sleep(0.3)
    process.process.send_signal(signal.SIGTERM)
    await process.until("stopping")
    process.process.send_signal(signal.SIGTERM)
    assert (await process.ended())[0] == 128 + signal.SIGTERM
    with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
        await in_flight


async def test_it_waits_for_a_database_and_can_be_stopped_while_it_does(start: Started) -> None:
    process = await start(port="0", database_url="postgresql://tally:hunter2@127.0.0.1:9/own")
    await process.until("database unreachable")
    await asyncio.sleep(0.7)
    process.process.send_signal(signal.SIGINT)
    code, _, err = await process.ended()
    assert code == 0
    # One line per change, not per try.
    assert [json.loads(line)["event"] for line in err.splitlines()] == ["stopping", "stopped"]
    assert "hunter2" not in err


async def test_it_waits_until_somebody_has_migrated(start: Started, dsn: Callable[[], str]) -> None:
    url = dsn()
    process = await start(port="0", database_url=url)
    assert (await process.until("waiting for migrations"))["pending"] == ["author/0001_author.sql"]
    await (await start("migrate", database_url=url)).ended()
    await process.until("serving")


async def test_an_agent_that_dies_ends_the_process_with_its_reason(start: Started, dsn: Callable[[], str]) -> None:
    url = dsn()
    await (await start("migrate", database_url=url)).ended()
    process = await start(port="0", database_url=url, dies="true")
    said = await process.until("stopped by an error")
    assert "LookupError: lost" in said["traceback"]
    assert (await process.ended())[0] == 1


@pytest.mark.parametrize("after", [b"", b"\r\n"], ids=["nothing", "an empty line, as old clients send it"])
async def test_an_idle_connection_is_closed_after_its_time(
    service: Running, monkeypatch: pytest.MonkeyPatch, after: bytes
) -> None:
    reader, writer = await connected(service.url)
    writer.write(b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (await answered(reader)).status == 200
    writer.write(after)
    monkeypatch.setattr(connection, "_KEEP_ALIVE_S", 0.1)
    async with asyncio.timeout(5):
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
    writer.close()


async def test_requests_sent_all_at_once_are_answered_in_their_order(service: Running) -> None:
    reader, writer = await connected(service.url)
    ids = [f"request-{i}" for i in range(5)]
    writer.write(b"".join(b"GET /echo HTTP/1.1\r\nHost: x\r\nX-Request-Id: %s\r\n\r\n" % id.encode() for id in ids))
    assert [(await answered(reader)).headers["x-request-id"] for _ in ids] == ids
    writer.close()


async def test_head_has_the_length_of_a_body_that_is_not_sent(service: Running) -> None:
    reader, writer = await connected(service.url)
    for _ in range(2):
        writer.write(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"\r\ncontent-length: 0\r\n" not in head.lower()
    writer.close()
