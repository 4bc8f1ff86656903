"""Internal and admin endpoints of running services, asked with every kind of wrong token; and secrets that stay so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tally.protocol import operation
from tests.integration.resilience.deployment import Answer, Deployment

SERVICES = ("author", "conference")


class Forger:
    """Tokens for one service that are wrong in one way each."""

    def __init__(self, deployment: Deployment, audience: str) -> None:
        good = deployment.token("gateway", audience)
        self._kid = jwt.get_unverified_header(good)["kid"]
        self._claims = jwt.decode(good, options={"verify_signature": False})
        self._audience = audience
        keys = deployment.stack.folder / "keys"
        self._key: Any = serialization.load_pem_private_key((keys / "service.pem").read_bytes(), None)
        self._deployment = deployment

    def signed(self, key: Any = None, algorithm: str = "EdDSA", kid: str | None = None, **changed: Any) -> str:
        headers = {"kid": kid or self._kid}
        return jwt.encode({**self._claims, **changed}, key or self._key, algorithm, headers=headers)

    def wrong(self) -> dict[str, tuple[str | None, int, str]]:
        """By what is wrong: the token, the status it must get, and the counter's label."""
        other = next(name for name in SERVICES if name != self._audience)
        past = int(time.time()) - 7200
        return {
            "missing": (None, 401, "missing"),
            "no token": ("x.y.z", 401, "malformed"),
            "expired": (self.signed(exp=past), 401, "expired"),
            "not yet valid": (self.signed(nbf=int(time.time()) + 7200), 401, "not-yet-valid"),
            "for another": (self._deployment.token("gateway", other), 401, "audience"),
            "of another issuer": (self.signed(iss="somebody"), 401, "issuer"),
            "forged": (self.signed(Ed25519PrivateKey.generate()), 401, "signature"),
            "of an unknown key": (self.signed(kid="nobody"), 401, "unknown-key"),
            "unsigned": (jwt.encode(self._claims, "", "none", headers={"kid": self._kid}), 401, "algorithm"),
            "signed by a secret": (self.signed("a shared secret of 32 bytes or more", "HS256"), 401, "algorithm"),
            "from a service that may not": (self._deployment.token("notifier", self._audience), 403, "caller"),
            "from an operator": (self._deployment.token("operator", self._audience), 403, "caller"),
        }


async def refused(deployment: Deployment, service: str, ask: Callable[[dict[str, str]], Any]) -> None:
    for how, (token, status, reason) in Forger(deployment, service).wrong().items():
        before = await deployment.metric(service, "tally_tokens_refused_total", reason=reason)
        answer: Answer = await ask({} if token is None else {"Authorization": f"Bearer {token}"})
        assert (answer.status, answer.code) == (status, "unauthenticated" if status == 401 else "forbidden"), how
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert token is None or token not in str(answer.body)
        assert await deployment.metric(service, "tally_tokens_refused_total", reason=reason) == before + 1, how


@pytest.mark.parametrize("service", SERVICES)
async def test_a_wrong_token_at_an_internal_endpoint_is_refused_and_counted_and_changes_nothing(
    deployment: Deployment, service: str
) -> None:
    author, event = await deployment.author(), await deployment.event()
    ops: list[str] = []

    async def record(headers: dict[str, str]) -> Answer:
        # A fresh operation each time: one of seconds ago would be refused for its age.
        ops.append(str(operation.make(int(time.time() * 1000), len(ops))))
        body = {"items": [[ops[-1], author, event]]}
        return await deployment.ask(service, "POST", "/internal/attendance/record", body, headers=headers)

    await refused(deployment, service, record)
    assert await deployment.live(service, "author", author) == set()
    good = {"Authorization": f"Bearer {deployment.token('gateway', service)}"}
    assert (await record(good)).status == 200  # it was the token, not the message
    assert await deployment.live(service, "author", author) == {ops[-1]}


@pytest.mark.parametrize("service", SERVICES)
async def test_no_internal_endpoint_is_open(deployment: Deployment, service: str) -> None:
    messages = ("record", "resolve", "kill", "cancel", "ack", "forward", "close", "rejoin", "status", "find", "list")
    for message in (*messages, *(["settle"] if service == "conference" else [])):
        answer = await deployment.ask(service, "POST", f"/internal/attendance/{message}", {"items": []})
        assert (answer.status, answer.code) == (401, "unauthenticated"), message


@pytest.mark.parametrize("service", [*SERVICES, "gateway"])
async def test_admin_endpoints_are_for_operators(deployment: Deployment, service: str) -> None:
    fault = {"faults": [{"kind": "error", "expires_s": 5}]}
    for token, status in ((None, 401), (deployment.token("gateway", service), 403)):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        for method, path, body in [
            ("PUT", "/admin/faults", fault),
            ("GET", "/admin/faults", None),
            ("GET", "/admin/breakers", None),
            ("PUT", "/admin/breakers/author/write", {"mode": "forced_open"}),
        ]:
            answer = await deployment.ask(service, method, path, body, admin=True, headers=headers)
            assert answer.status == status, (method, path)
    assert deployment.operator.faults(service) == []
    assert {one["mode"] for one in (await deployment.breakers(service)).values()} <= {"auto"}


async def test_no_key_token_or_password_is_in_a_log_a_metric_or_a_problem(deployment: Deployment) -> None:
    author, event = await deployment.author(), await deployment.event()
    assert (await deployment.create(event, author)).status == 201
    tokens = [token for service in SERVICES for token, _, _ in Forger(deployment, service).wrong().values() if token]
    told = []
    for token in tokens:
        for service in (*SERVICES, "gateway"):
            headers = {"Authorization": f"Bearer {token}"}
            for admin, path in ((False, "/internal/attendance/status"), (True, "/admin/breakers")):
                answer = await deployment.ask(service, "POST", path, {"items": []}, admin=admin, headers=headers)
                told.append(str((answer.body, dict(answer.headers))))
    for service in (*SERVICES, "gateway"):
        told.append((await deployment.ask(service, "GET", "/metrics", admin=True)).body.decode())
        told.append(deployment.stack.log(service).read_text())
    told.append(deployment.stack.log("postgres").read_text())
    everything = "\n".join(told)
    for secret in secrets(deployment, tokens):
        assert secret not in everything
    assert "token refused" in everything  # the logs were looked at


def secrets(deployment: Deployment, tokens: list[str]) -> list[str]:
    """What nobody may read: the key's lines, each token's signature, each password."""
    pem = Path(deployment.stack.folder / "keys" / "service.pem").read_text().splitlines()[1:-1]
    signatures = [part for token in tokens if len(part := token.rsplit(".", 1)[1]) > 20]
    passwords = [urlsplit(deployment.stack.dsn(service)).password for service in SERVICES]
    assert len(pem) > 0
    assert len(signatures) > 10
    return [*pem, *signatures, *(password for password in passwords if password)]
