"""An operator of services that are elsewhere: with a token that somebody else made, at an address that is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from click.testing import CliRunner, Result

from tally.chassis.admin import breaker_routes
from tally.chassis.app import Service, running
from tally.chassis.auth import Guard
from tally.chassis.calls import Calls
from tally.chassis.clock import SystemClock
from tally.chassis.keys import Keys, make_key
from tally.chassis.signals import Signals
from tally.chassis.tokens import MintedTokens, Verifier
from tally.cli import main
from tally.local.failure import LocalError
from tally.local.operator import TOKEN, Operator
from tests.unit.chassis.test_calls import OK, Scripted
from tests.unit.chassis.test_faults import Settings

ACCOUNT = "system:serviceaccount:prod:tally-operator"
ISSUER = "https://cluster.example"
Typed: TypeAlias = Callable[..., Awaitable[Result]]


@pytest.fixture
async def typed(tmp_path: Path) -> AsyncIterator[Typed]:
    """What `tally` answers to who has no stack here, but a token of the cluster and the gateway's forwarded port."""
    make_key(tmp_path / "cluster.pem", tmp_path / "jwks.json")
    clock, signals = SystemClock(), Signals("gateway")
    verifier = Verifier(Keys(str(tmp_path / "jwks.json"), clock), "gateway", ISSUER, clock)
    calls = Calls(Scripted(OK), signals, clock)  # type: ignore[arg-type]
    calls.announce("author", ["read", "write"])
    routes = breaker_routes(calls, Guard(verifier, [ACCOUNT], signals))
    service = Service(name="gateway", settings=Settings(), signals=signals, admin_routes=routes, clock=clock)
    token = MintedTokens(str(tmp_path / "cluster.pem"), ACCOUNT, ISSUER, clock)
    folder = tmp_path / "nothing"

    async with running(service) as addresses:
        there = {TOKEN: token("gateway"), "TALLY_GATEWAY_ADMIN_URL": addresses.admin_url}

        async def typing(*words: str, **changed: str) -> Result:
            runner = CliRunner(env={"TALLY_LOCAL_FOLDER": str(folder), **there, **changed})
            return await asyncio.to_thread(runner.invoke, main, words)

        yield typing
    assert not folder.exists(), "a key was made that nobody asked for"


async def test_with_a_token_of_the_cluster_a_breaker_is_forced_and_freed(typed: Typed) -> None:
    assert (await typed("breakers", "force", "gateway", "author", "write", "forced_open")).exit_code == 0
    assert "forced_open" in (await typed("breakers", "list", "gateway")).stdout
    assert (await typed("breakers", "force", "gateway", "author", "write", "auto")).exit_code == 0
    assert "forced_open" not in (await typed("breakers", "list", "gateway")).stdout


async def test_a_token_that_the_service_does_not_take_is_refused_in_a_sentence(typed: Typed) -> None:
    result = await typed("breakers", "list", "gateway", TALLY_OPERATOR_TOKEN="e30.e30.e30")
    assert result.exit_code == 1
    said = result.stderr.splitlines()[-1]  # the service, in this process, may log to the same place
    assert said.startswith("tally: The gateway service refused: 401 unauthenticated")


async def test_what_was_typed_is_asked_for_whatever_it_is(typed: Typed) -> None:
    result = await typed("breakers", "force", "gateway", "b?c", "write", "forced_open")
    assert result.exit_code == 1
    assert "There is no breaker for calls of kind write to b?c." in result.stderr


@pytest.mark.parametrize("url", ["localhost:9443", "ftp://localhost", "http://", "http://[", "http://localhost:9443/x"])
async def test_an_address_that_is_none_is_named_with_its_variable(typed: Typed, url: str) -> None:
    result = await typed("breakers", "list", "gateway", TALLY_GATEWAY_ADMIN_URL=url)
    assert result.exit_code == 1
    assert result.stderr.startswith("tally: TALLY_GATEWAY_ADMIN_URL is ")


def test_where_no_stack_ever_was_no_key_is_made(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="No Tally was ever started in"):
        Operator({}, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("token", ["two words", "a\nb", "ümlaut"])
def test_what_can_be_no_token_is_not_sent(tmp_path: Path, token: str) -> None:
    with pytest.raises(LocalError, match="TALLY_OPERATOR_TOKEN is no token"):
        Operator({}, tmp_path, {TOKEN: token})


def test_of_a_service_that_nobody_placed_it_is_said_how_to_place_it(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"There is no service ledger.*TALLY_LEDGER_ADMIN_URL"):
        Operator({}, tmp_path, {TOKEN: "t"}).breakers("ledger")
