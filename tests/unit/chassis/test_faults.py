"""Each kind of fault does what its row says to a real service, to the share and the paths it is for, and then ends."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import logs
from tally.chassis.app import Service, running
from tally.chassis.auth import Guard
from tally.chassis.clock import SystemClock
from tally.chassis.database_faults import PoolExhausted
from tally.chassis.faults import Fault, Faults, FaultSet, Kind
from tally.chassis.http import Route, json_response
from tally.chassis.keys import Keys, make_key
from tally.chassis.settings import ServiceSettings
from tally.chassis.signals import Signals
from tally.chassis.tokens import MintedTokens, Verifier
from tests.unit.chassis.test_app import Answer, answered, ask, connected
from tests.unit.chassis.test_auth import OwnClock

ANSWER = {"text": "x" * 1000}


class Settings(ServiceSettings, frozen=True, kw_only=True):
    port: int = 0


class Pool:
    """A database of two connections."""

    def __init__(self) -> None:
        self.free = 2

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[None]:
        if not self.free:
            raise PoolExhausted("all busy", nothing_done=True)
        self.free -= 1
        try:
            yield
        finally:
            self.free += 1


@dataclass
class Trial:
    """A service with a fault switch, and the bodies that its one handler has seen."""

    url: str
    admin_url: str
    faults: Faults
    signals: Signals
    token: str
    done: list[bytes]
    said: asyncio.Event

    async def switch(self, *faults: dict[str, Any]) -> Answer:
        whole = [{"expires_s": 60, **fault} for fault in faults]
        body, headers = json.dumps({"faults": whole}).encode(), {"Authorization": f"Bearer {self.token}"}
        return await ask(self.admin_url, "/admin/faults", "PUT", headers, body)

    async def post(self, path: str = "/work", body: bytes = b"{}") -> Answer:
        return await ask(self.url, path, "POST", body=body)

    def counted(self, method: str) -> bool:
        """Whether a request is over."""
        line = f'http_server_request_duration_seconds_count{{http_request_method="{method}"'
        return line in self.signals.exposition("")[0].decode()

    def gauge(self, kind: str) -> float:
        return self.signals.registry.get_sample_value("tally_fault_active", {"fault": kind}) or 0.0


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[Trial]:
    make_key(tmp_path / "key.pem", tmp_path / "jwks.json")
    clock, signals, done, said = SystemClock(), Signals("trial"), [], asyncio.Event()
    verifier = Verifier(Keys(str(tmp_path / "jwks.json"), clock), "trial", "tally", clock)
    faults = Faults(clock, signals, Pool())  # type: ignore[arg-type]

    async def work(request: Request) -> Response:
        done.append(await request.body())
        said.set()
        return json_response(ANSWER)

    service = Service(
        name="trial",
        settings=Settings(),
        signals=signals,
        routes=[Route("POST", "/work", work, "Work"), Route("POST", "/other", work, "Other work")],
        admin_routes=faults.routes(Guard(verifier, ["operator"], signals)),
        faults=faults,
        clock=clock,
    )
    token = MintedTokens(str(tmp_path / "key.pem"), "operator", "tally", clock)("trial")
    async with running(service) as addresses:
        yield Trial(addresses.url, addresses.admin_url, faults, signals, token, done, said)


async def until(holds: Callable[[], bool]) -> None:
    """Wait for a moment."""
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110 - it is a service of its own that we look at
            await asyncio.sleep(0.01)


def hits(faults: Faults, kind: Kind, path: str, times: int) -> list[bool]:
    return [faults._find(kind, path) is not None for _ in range(times)]


def own(*faults: Fault) -> tuple[Faults, OwnClock]:
    clock = OwnClock()
    switch = Faults(clock, Signals("trial"))
    switch.set(FaultSet(list(faults)))
    return switch, clock


# --- when, where, how often


def test_a_fault_ends_by_itself() -> None:
    faults, clock = own(Fault(Kind.ERROR, expires_s=5))
    clock.at_s += 4.9
    assert hits(faults, Kind.ERROR, "/x", 1) == [True]
    assert [round(one.left_s, 1) for one in faults.active()] == [0.1]
    clock.at_s += 0.2
    assert hits(faults, Kind.ERROR, "/x", 1) == [False]
    assert faults.active() == []


def test_a_fault_hits_only_the_paths_that_begin_with_its_own() -> None:
    faults, _ = own(Fault(Kind.ERROR, expires_s=5, path="/internal/attendance/record"))
    assert hits(faults, Kind.ERROR, "/internal/attendance/record", 1) == [True]
    assert hits(faults, Kind.ERROR, "/internal/attendance/kill", 1) == [False]


def test_the_same_seed_hits_the_same_requests_and_about_its_share() -> None:
    first, second, third = (own(Fault(Kind.ERROR, 5, rate=0.5, seed=seed))[0] for seed in (7, 7, 8))
    drawn = hits(first, Kind.ERROR, "/x", 400)
    assert hits(second, Kind.ERROR, "/x", 400) == drawn
    assert hits(third, Kind.ERROR, "/x", 400) != drawn
    assert 150 < sum(drawn) < 250
    assert first.active()[0].hits == sum(drawn)


def test_what_a_seed_hits_does_not_depend_on_requests_for_other_paths() -> None:
    first, second = (own(Fault(Kind.ERROR, 5, rate=0.5, path="/a"))[0] for _ in range(2))
    alone = hits(first, Kind.ERROR, "/a", 50)
    mixed = []
    for _ in range(50):
        assert hits(second, Kind.ERROR, "/b", 1) == [False]
        mixed += hits(second, Kind.ERROR, "/a", 1)
    assert alone == mixed


# --- the switch


async def test_the_switch_needs_a_token_of_an_operator_and_says_what_is_on(trial: Trial) -> None:
    body = json.dumps({"faults": [{"kind": "error", "expires_s": 60}]}).encode()
    assert (await ask(trial.admin_url, "/admin/faults", "PUT", body=body)).status == 401
    assert (await ask(trial.admin_url, "/admin/faults")).status == 401
    assert (await trial.post()).status == 200
    with logs.capture() as events:
        answer = await trial.switch({"kind": "error"})
    (one,) = answer.json["items"]
    assert (one["fault"]["kind"], one["hits"], one["left_s"] > 50) == ("error", 0, True)
    assert [event["faults"] for event in events if event["event"] == "faults set"] == [["error 1 for 60 s"]]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "earthquake"},
        {"kind": "error", "rate": 1.1},
        {"kind": "error", "expires_s": 0},
        {"kind": "error", "expires_s": 3601},
        {"kind": "latency", "latency_ms": -1},
    ],
)
async def test_a_fault_out_of_bounds_is_a_problem_and_changes_nothing(trial: Trial, fault: dict[str, Any]) -> None:
    assert (await trial.switch(fault)).status == 400
    assert trial.faults.active() == []


async def test_the_gauge_tells_which_faults_are_on(trial: Trial) -> None:
    assert trial.gauge("error") == 0
    await trial.switch({"kind": "error"})
    assert (trial.gauge("error"), trial.gauge("hang")) == (1, 0)
    await trial.switch()
    assert trial.gauge("error") == 0


async def test_the_gauge_falls_when_a_fault_ends_by_itself(trial: Trial) -> None:
    await trial.switch({"kind": "error", "expires_s": 0.01})
    await asyncio.sleep(0.02)
    exposed = (await ask(trial.admin_url, "/metrics")).body.decode()
    assert 'tally_fault_active{fault="error"} 0.0' in exposed


async def test_without_the_setting_there_is_no_switch() -> None:
    service = Service(name="trial", settings=Settings(), signals=Signals("trial"))
    async with running(service) as addresses:
        assert (await ask(addresses.admin_url, "/admin/faults")).status == 404
        assert (await ask(addresses.admin_url, "/admin/faults", "PUT", body=b"{}")).status == 404


async def test_faults_leave_health_and_admin_endpoints_alone(trial: Trial) -> None:
    await trial.switch({"kind": "reset"}, {"kind": "error"})
    assert (await ask(trial.admin_url, "/livez")).status == 200
    assert (await ask(trial.admin_url, "/readyz")).status == 200
    assert (await trial.switch()).status == 200
    assert (await trial.post()).status == 200


# --- the kinds


async def test_error_answers_a_problem_and_nothing_is_done(trial: Trial) -> None:
    await trial.switch({"kind": "error"})
    answer = await trial.post()
    assert (answer.status, answer.json["code"]) == (500, "internal")
    assert trial.done == []


async def test_latency_begins_the_request_later(trial: Trial) -> None:
    await trial.switch({"kind": "latency", "latency_ms": 300, "jitter_ms": 50})
    waiting = asyncio.create_task(trial.post())
    done, _ = await asyncio.wait([waiting], timeout=0.2)
    assert not done
    assert trial.done == []
    assert (await waiting).status == 200


async def test_reset_cuts_the_connection_before_anything_is_done(trial: Trial) -> None:
    await trial.switch({"kind": "reset"})
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await trial.post()
    assert trial.done == []
    await trial.switch()
    assert (await trial.post()).status == 200


@pytest.mark.parametrize("kind", ["reset", "cut", "hang"])
async def test_a_request_without_an_answer_is_over_when_its_connection_is_and_is_no_error_of_the_service(
    trial: Trial, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    await trial.switch({"kind": kind})
    _, writer = await connected(trial.url)
    writer.write(b"POST /work HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
    if kind != "reset":
        await trial.said.wait()
    writer.close()
    await until(lambda: trial.counted("POST"))
    assert trial.signals.registry.get_sample_value("tally_requests_in_flight") == 0
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_cut_does_the_work_and_cuts_the_connection_within_the_body(trial: Trial) -> None:
    await trial.switch({"kind": "cut"})
    reader, writer = await connected(trial.url)
    writer.write(b"POST /work HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await reader.readexactly(length)
    writer.close()
    assert head.startswith(b"HTTP/1.1 200")
    assert trial.done == [b"{}"]


async def test_hang_does_the_work_and_never_answers(trial: Trial) -> None:
    await trial.switch({"kind": "hang"})
    reader, writer = await connected(trial.url)
    writer.write(b"POST /work HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}")
    await trial.said.wait()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await answered(reader)
    writer.close()
    assert trial.done == [b"{}"]
    await trial.switch()
    assert (await trial.post()).status == 200


async def test_duplicate_does_it_twice_with_the_same_body_and_answers_once(trial: Trial) -> None:
    await trial.switch({"kind": "duplicate"})
    answer = await trial.post(body=b'{"n":1}')
    assert answer.json == ANSWER
    assert trial.done == [b'{"n":1}', b'{"n":1}']


async def test_not_ready_fails_readiness_and_serves_on(trial: Trial) -> None:
    await trial.switch({"kind": "not-ready"})
    assert (await ask(trial.admin_url, "/readyz")).status == 503
    assert (await ask(trial.admin_url, "/livez")).status == 200
    assert (await trial.post()).status == 200
    await trial.switch()
    assert (await ask(trial.admin_url, "/readyz")).status == 200


async def test_pool_holds_every_connection_until_it_ends(trial: Trial) -> None:
    pool = trial.faults.database
    assert isinstance(pool, Pool)
    await trial.switch({"kind": "pool"})
    await until(lambda: pool.free == 0)
    await trial.switch()
    await until(lambda: pool.free == 2)


async def test_a_fault_for_one_path_leaves_the_others_alone(trial: Trial) -> None:
    await trial.switch({"kind": "error", "path": "/other"})
    assert (await trial.post("/other")).status == 500
    assert (await trial.post("/work")).status == 200
