"""What ends by itself is told in time: tokens that are shown, certificates, and deadlines that have passed."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import pytest

from tally.chassis.app import Service, running
from tally.chassis.client import Client
from tally.chassis.clock import SystemClock
from tally.chassis.keys import make_key
from tally.chassis.settings import ServiceSettings
from tally.chassis.signals import Signals
from tally.chassis.tokens import LIFETIME_S, MintedTokens, expires_s
from tests.integration.statements.test_tls import self_signed

HOUR_S = 3600


class Settings(ServiceSettings, frozen=True, kw_only=True):
    port: int = 0


def value(signals: Signals, name: str) -> float:
    [line] = [line for line in signals.exposition("")[0].decode().splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


@pytest.fixture
def tokens(tmp_path: Path) -> MintedTokens:
    make_key(tmp_path / "key.pem", tmp_path / "jwks.json")
    return MintedTokens(str(tmp_path / "key.pem"), "gateway", "tally", SystemClock())


async def test_how_long_a_token_is_still_valid_shows_before_the_first_call(tokens: MintedTokens) -> None:
    signals = Signals("gateway")
    async with Client({"author": "http://127.0.0.1:1"}, signals, token_source=tokens):
        assert LIFETIME_S - 5 < value(signals, 'tally_token_expires_seconds{peer="author"}') <= LIFETIME_S


async def test_a_token_that_cannot_be_had_has_no_time_left() -> None:
    def broken(audience: str) -> str:
        raise OSError("no such file")

    signals = Signals("gateway")
    async with Client({"author": "http://127.0.0.1:1"}, signals, token_source=broken):
        assert value(signals, 'tally_token_expires_seconds{peer="author"}') == 0


@pytest.mark.parametrize("token", ["", "no token", "a.b.c"])
def test_what_is_no_token_ends_at_once(token: str) -> None:
    assert expires_s(token) == 0


async def test_how_long_the_certificate_is_still_valid_shows(tmp_path: Path) -> None:
    cert_file, key_file = self_signed(tmp_path)
    settings = Settings(admin_port=0, tls_cert_file=str(cert_file), tls_key_file=str(key_file))
    signals = Signals("author")
    async with running(Service(name="author", settings=settings, signals=signals)):
        assert HOUR_S - 60 < value(signals, "tally_certificate_expires_seconds ") <= HOUR_S


async def test_a_request_that_came_too_late_is_counted() -> None:
    signals = Signals("author")
    service = Service(name="author", settings=Settings(admin_port=0), signals=signals)
    async with running(service) as addresses, aiohttp.ClientSession() as session:
        assert value(signals, "tally_deadlines_exceeded_total ") == 0
        async with session.get(f"{addresses.url}/openapi.json", headers={"X-Deadline-Ms": "0"}) as answer:
            assert answer.status == 504
    assert value(signals, "tally_deadlines_exceeded_total ") == 1
    assert value(signals, "tally_build_info") == 1
