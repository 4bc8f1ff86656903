"""Calls to peers that answer, refuse, hang, lie and hang up: what is claimed of each is true."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tally.chassis import context
from tally.chassis.client import Client, NotSent, Rejected, Reply, Silent
from tally.chassis.clock import SystemClock
from tally.chassis.signals import Signals
from tally.resilience.deadline import Deadline

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Request:
    """What arrived: the head's first line, its headers, and the body."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.line, *lines = head.decode().split("\r\n")
        pairs = (line.split(": ", 1) for line in lines if line)
        self.headers = {name.lower(): value for name, value in pairs}
        self.body = body


Script = Callable[[Request, asyncio.StreamWriter], Awaitable[bool | None]]


class Peer:
    """A server that does with each request what its script says; the script returns False to hang up after it."""

    def __init__(self, script: Script, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._script = script
        self._tls = tls

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        try:
            yield f"{'https' if self._tls else 'http'}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request = Request(head, b"")
                request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
                self.requests.append(request)
                if await self._script(request, writer) is False:
                    return
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


def says(answer: bytes, *, then_hang_up: bool = False) -> Script:
    async def script(request: Request, writer: asyncio.StreamWriter) -> bool:
        writer.write(answer)
        return not then_hang_up

    return script


def problem(status: int, code: str, *more: str) -> bytes:
    body = f'{{"code":"{code}","status":{status}}}'.encode()
    lines = [f"HTTP/1.1 {status} X", "content-type: application/problem+json", f"content-length: {len(body)}", *more]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def hangs(request: Request, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(30)


@asynccontextmanager
async def calling(url: str, **options: object) -> AsyncIterator[Client]:
    async with Client({"author": url}, Signals("gateway"), **options) as client:  # type: ignore[arg-type]
        yield client


@asynccontextmanager
async def called(script: Script, **options: object) -> AsyncIterator[tuple[Client, Peer]]:
    peer = Peer(script)
    async with peer.listening() as url, calling(url, **options) as client:
        yield client, peer


def after(seconds: float) -> Deadline:
    return Deadline.after(seconds, SystemClock().monotonic_s())


def counted(client: Client, outcome: str) -> bool:
    series = f'http_client_request_duration_seconds_count{{kind="write",outcome="{outcome}",peer="author"}} 1.0'
    return series in client._signals.exposition("")[0].decode()


# --- answers


async def test_a_reply_is_its_body() -> None:
    async with called(says(OK)) as (client, peer):
        assert await client.post("author", "/internal/x", b'{"a":1}', kind="write", deadline=after(5)) == Reply(b"{}")
        assert counted(client, "reply")
    (request,) = peer.requests
    assert (request.line, request.body) == ("POST /internal/x HTTP/1.1", b'{"a":1}')


async def test_a_peers_address_may_have_a_path() -> None:
    peer = Peer(says(OK))
    async with peer.listening() as url, calling(f"{url}/behind/") as client:
        await client.post("author", "/x", b"{}", kind="write", deadline=after(5))
        await client.get("author", "/y?a=b", kind="read", deadline=after(5))
    assert [request.line for request in peer.requests] == ["POST /behind/x HTTP/1.1", "GET /behind/y?a=b HTTP/1.1"]
    assert all(request.headers["host"] == url.removeprefix("http://") for request in peer.requests)


async def test_what_a_token_holds_makes_no_second_header() -> None:
    async with called(says(OK), token_source=lambda peer: "a\r\nX-Deadline-Ms: 9") as (client, peer):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == NotSent("token")
    assert peer.connections == 0


async def test_what_travels_along() -> None:
    here = context.arrived([(b"x-request-id", b"r1")], SystemClock().monotonic_s(), 2.0)
    async with called(says(OK), token_source=lambda peer: f"token-for-{peer}") as (client, peer):
        with context.use(here):
            await client.post("author", "/x", b"{}", kind="write", deadline=after(0.7))
    (request,) = peer.requests
    assert 0 < int(request.headers.pop("x-deadline-ms")) <= 700
    del request.headers["host"]
    assert request.headers == {
        "traceparent": here.traceparent,
        "x-request-id": "r1",
        "content-type": "application/json",
        "content-length": "2",
        "authorization": "Bearer token-for-author",
    }


async def test_outside_a_request_there_is_no_trace_to_tell_of() -> None:
    async with called(says(OK)) as (client, peer):
        await client.post("author", "/x", b"{}", kind="settle", deadline=after(3))
    assert 0 < int(peer.requests[0].headers["x-deadline-ms"]) <= 3000
    assert "traceparent" not in peer.requests[0].headers


async def test_connections_are_kept() -> None:
    async with called(says(OK)) as (client, peer):
        for _ in range(5):
            await client.post("author", "/x", b"{}", kind="write", deadline=after(5))
    assert (len(peer.requests), peer.connections) == (5, 1)


async def test_nothing_is_remembered_unpacked_or_sent_by_way_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    answer = b"HTTP/1.1 200 OK\r\nset-cookie: a=b\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nzzzz"
    async with called(says(answer)) as (client, peer):
        for _ in range(2):
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Reply(b"zzzz")
    assert "cookie" not in peer.requests[1].headers


async def test_a_problem_is_a_rejection() -> None:
    async with called(says(problem(503, "overloaded", "retry-after: 2"))) as (client, _):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Rejected(
            503, "overloaded", 2.0
        )
        assert counted(client, "rejected")


@pytest.mark.parametrize("more", [[], ["retry-after: Sun, 22 Nov 2026 21:47:21 GMT"], ["retry-after: -1"]])
async def test_a_rejection_may_not_say_how_long_to_wait(more: list[str]) -> None:
    async with called(says(problem(409, "event-full", *more))) as (client, _):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Rejected(
            409, "event-full", None
        )


@pytest.mark.parametrize("asked", ["61", "86400", "9" * 400])
async def test_a_peer_that_asks_for_more_than_a_minute_is_not_believed(asked: str) -> None:
    async with called(says(problem(503, "overloaded", f"retry-after: {asked}"))) as (client, _):
        told = await client.post("author", "/x", b"{}", kind="write", deadline=after(5))
        assert told == Rejected(503, "overloaded", 60.0)


# --- no answer: sent, or perhaps sent


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 2\r\n\r\nno", "status-502"),
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n", "status-302"),
        (b"HTTP/1.1 500 X\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n[]", "status-500"),
        (b"HTTP/1.1 500 X\r\ncontent-type: application/problem+json\r\ncontent-length: 1\r\n\r\n{", "status-500"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not-http"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n{}", "too-large"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n20\r\n" + b"x" * 32 + b"\r\n0\r\n\r\n", "too-large"),
    ],
)
async def test_what_is_no_valid_answer_is_silence(answer: bytes, reason: str) -> None:
    async with called(says(answer), reply_max_bytes=30) as (client, peer):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(2)) == Silent(reason)
        assert counted(client, "silent")
    assert len(peer.requests) == 1


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "reset"),
        (b"HTTP/1.1 200 OK\r\ncontent-le", "reset"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{}", "cut-short"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n", "cut-short"),
    ],
)
async def test_a_peer_that_hangs_up_is_silent_and_not_asked_again(answer: bytes, reason: str) -> None:
    async with called(says(answer, then_hang_up=True)) as (client, peer):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Silent(reason)
    assert len(peer.requests) == 1


async def test_a_peer_that_hangs_is_silent_at_the_deadline() -> None:
    async with called(hangs) as (client, peer):
        async with asyncio.timeout(1.0):
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(0.2)) == Silent("timeout")
    assert len(peer.requests) == 1


async def test_a_peer_that_drips_is_silent_at_the_deadline() -> None:
    async def drips(request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n")
        for _ in range(1000):
            writer.write(b"x")
            await asyncio.sleep(0.02)

    async with called(drips) as (client, _):
        async with asyncio.timeout(1.0):
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(0.2)) == Silent("timeout")


async def test_a_kept_connection_that_is_just_being_closed_is_silence() -> None:
    requests = 0

    async def answers_once(request: Request, writer: asyncio.StreamWriter) -> bool:
        nonlocal requests
        requests += 1
        if requests == 1:
            writer.write(OK)
        return requests == 1

    async with called(answers_once) as (client, _):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Reply(b"{}")
        # Perhaps the peer had not read it. Perhaps it had.
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Silent("reset")
    assert requests == 2


async def test_a_connection_that_was_closed_meanwhile_is_not_used_again() -> None:
    async with called(says(OK, then_hang_up=True)) as (client, peer):
        for _ in range(3):
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Reply(b"{}")
            await asyncio.sleep(0.05)
    assert peer.connections == 3


async def test_a_reset_while_the_request_is_read_is_silence() -> None:
    def resets(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        resetting = asyncio.get_running_loop().run_in_executor(None, resets, listener)
        async with calling(f"http://127.0.0.1:{listener.getsockname()[1]}") as client:
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(2)) == Silent("reset")
        await resetting


# --- not one byte sent


async def test_a_refused_connection_proves_that_nothing_was_sent() -> None:
    async with calling("http://127.0.0.1:9") as client:
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == NotSent("refused")
        assert counted(client, "not_sent")


async def test_an_unknown_host_proves_that_nothing_was_sent() -> None:
    async with calling("http://author.invalid:8070", connect_timeout_s=2.0) as client:
        outcome = await client.post("author", "/x", b"{}", kind="write", deadline=after(3))
    # Without a name server, its answer does not come in time.
    assert outcome in (NotSent("dns"), NotSent("no-connection"))


@pytest.mark.parametrize("options", [{"connect_timeout_s": 0.1}, {"connect_timeout_s": 30.0}])
async def test_a_host_that_does_not_answer_proves_that_nothing_was_sent(options: dict[str, object]) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        # Whoever comes after these is not even refused.
        fill = [socket.socket() for _ in range(3)]
        for one in fill:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        async with calling(f"http://127.0.0.1:{listener.getsockname()[1]}", **options) as client:
            async with asyncio.timeout(2.0):
                outcome = await client.post("author", "/x", b"{}", kind="write", deadline=after(0.3))
        assert outcome == NotSent("no-connection")
        for one in fill:
            one.close()


async def test_waiting_for_a_free_connection_sends_nothing() -> None:
    async with called(hangs, connections_max=1) as (client, peer):
        first = asyncio.create_task(client.post("author", "/1", b"{}", kind="write", deadline=after(0.6)))
        await asyncio.sleep(0.05)
        assert await client.post("author", "/2", b"{}", kind="write", deadline=after(0.2)) == NotSent("no-connection")
        assert await first == Silent("timeout")
    assert [request.line for request in peer.requests] == ["POST /1 HTTP/1.1"]


async def test_after_the_deadline_nothing_is_sent() -> None:
    async with called(says(OK)) as (client, peer):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(-1)) == NotSent("deadline")
    assert peer.connections == 0


async def test_without_a_token_nothing_is_sent() -> None:
    def gone(peer: str) -> str:
        raise FileNotFoundError("/var/run/secrets/token")

    async with called(says(OK), token_source=gone) as (client, peer):
        assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == NotSent("token")
    assert peer.connections == 0


async def test_a_caller_that_is_cancelled_is_counted_and_its_connection_closed() -> None:
    async with called(hangs) as (client, _):
        task = asyncio.create_task(client.post("author", "/x", b"{}", kind="write", deadline=after(5)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert counted(client, "cancelled")
        assert client._connections["author"].in_use == 0


async def test_an_unknown_peer_is_a_mistake() -> None:
    async with calling("http://127.0.0.1:9") as client:
        with pytest.raises(KeyError):
            await client.post("nobody", "/x", b"{}", kind="write", deadline=after(5))


# --- TLS


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tally test")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "tls.crt", folder / "tls.key"
    certificate_file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


async def test_a_peer_is_known_by_its_certificate(tmp_path: Path) -> None:
    certificate_file, key_file = certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate_file, key_file)
    peer = Peer(says(OK), tls)
    async with peer.listening() as url:
        async with calling(url, ca_file=str(certificate_file)) as client:
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == Reply(b"{}")
        async with calling(url) as client:
            assert await client.post("author", "/x", b"{}", kind="write", deadline=after(5)) == NotSent("tls")
    assert len(peer.requests) == 1


# --- spans


async def test_a_call_is_a_span_that_the_peer_continues() -> None:
    exporter = InMemorySpanExporter()
    signals = Signals("gateway", span_exporter=exporter)
    peer = Peer(says(OK))
    async with peer.listening() as url, Client({"author": url}, signals) as client:
        with signals.span("fan_out"):
            await client.post("author", "/x", b"{}", kind="write", deadline=after(5))
    call, fan_out = exporter.get_finished_spans()
    assert call.attributes == {"tally.peer": "author", "tally.kind": "write", "tally.outcome": "reply"}
    assert call.context is not None
    assert call.parent is not None
    assert fan_out.context is not None
    assert call.parent.span_id == fan_out.context.span_id
    _, trace_id, parent_id, flags = peer.requests[0].headers["traceparent"].split("-")
    assert (int(trace_id, 16), int(parent_id, 16), flags) == (call.context.trace_id, call.context.span_id, "01")
    assert f'trace_id="{trace_id}"' in signals.exposition("application/openmetrics-text; version=1.0.0")[0].decode()


async def test_the_repr_names_the_peers() -> None:
    assert repr(Client({"author": "http://h"}, Signals("x"))) == "<Client to author not started>"
