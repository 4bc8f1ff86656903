"""What an operator sees of breakers and does to them, over HTTP; and that nobody else can."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tally.chassis.admin import breaker_routes
from tally.chassis.app import Service, running
from tally.chassis.auth import Guard
from tally.chassis.calls import Calls
from tally.chassis.client import NotSent, Reply
from tally.chassis.clock import SystemClock
from tally.chassis.keys import Keys, make_key
from tally.chassis.signals import Signals
from tally.chassis.tokens import MintedTokens, Verifier
from tests.unit.chassis.test_app import Answer, ask
from tests.unit.chassis.test_calls import OK, Scripted, post
from tests.unit.chassis.test_faults import Settings


@dataclass
class Trial:
    """A service with breakers for one peer."""

    url: str
    calls: Calls
    tokens: dict[str, str]

    async def force(self, mode: str, *, of: str = "author/write", who: str | None = "operator") -> Answer:
        headers = {"Authorization": f"Bearer {self.tokens[who]}"} if who else {}
        return await ask(self.url, f"/admin/breakers/{of}", "PUT", headers, json.dumps({"mode": mode}).encode())

    async def states(self) -> dict[str, str]:
        headers = {"Authorization": f"Bearer {self.tokens['operator']}"}
        items = (await ask(self.url, "/admin/breakers", headers=headers)).json["items"]
        return {f"{one['peer']}/{one['kind']}": one["breaker"]["state"] for one in items}


@pytest.fixture
async def trial(tmp_path: Path) -> AsyncIterator[Trial]:
    make_key(tmp_path / "key.pem", tmp_path / "jwks.json")
    clock, signals = SystemClock(), Signals("gateway")
    verifier = Verifier(Keys(str(tmp_path / "jwks.json"), clock), "gateway", "tally", clock)
    calls = Calls(Scripted(OK), signals, clock)  # type: ignore[arg-type]
    calls.announce("author", ["read", "write"])
    routes = breaker_routes(calls, Guard(verifier, ["operator"], signals))
    service = Service(name="gateway", settings=Settings(), signals=signals, admin_routes=routes, clock=clock)
    tokens = {
        name: MintedTokens(str(tmp_path / "key.pem"), name, "tally", clock)("gateway")
        for name in ("operator", "conference")
    }
    async with running(service) as addresses:
        yield Trial(addresses.admin_url, calls, tokens)


async def test_every_announced_breaker_is_shown_before_its_first_call(trial: Trial) -> None:
    assert await trial.states() == {"author/read": "closed", "author/write": "closed"}


async def test_a_breaker_that_is_forced_open_lets_nothing_through_until_it_is_freed(trial: Trial) -> None:
    answer = await trial.force("forced_open")
    assert (answer.status, answer.json["breaker"]["state"]) == (200, "forced_open")
    assert isinstance((await post(trial.calls))[0], NotSent)
    assert isinstance((await post(trial.calls, kind="read"))[0], Reply)
    assert (await trial.force("auto")).status == 200
    assert (await post(trial.calls))[0] == OK
    assert (await trial.states())["author/write"] == "closed"


@pytest.mark.parametrize("mode", ["forced_closed", "observe"])
async def test_the_other_modes_let_everything_through(trial: Trial, mode: str) -> None:
    assert (await trial.force(mode)).json["breaker"]["mode"] == mode
    assert (await post(trial.calls))[0] == OK


async def test_a_mode_or_a_breaker_that_does_not_exist_is_a_problem(trial: Trial) -> None:
    answer = await trial.force("ajar")
    assert (answer.status, answer.json["code"]) == (400, "invalid-field")
    for of in ("author/settle", "nobody/write"):
        assert (await trial.force("forced_open", of=of)).status == 404
    assert await trial.states() == {"author/read": "closed", "author/write": "closed"}


async def test_nobody_but_an_operator_sees_or_forces_a_breaker(trial: Trial) -> None:
    assert (await ask(trial.url, "/admin/breakers")).status == 401
    assert (await trial.force("forced_open", who=None)).status == 401
    answer = await trial.force("forced_open", who="conference")
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert (await trial.states())["author/write"] == "closed"
