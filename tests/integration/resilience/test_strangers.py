"""Internal and admin endpoints of running services, asked with every kind of wrong token; and secrets that stay so."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tally.protocol import operation
from tests.integration.resilience.deployment import Answer, Deployment
from tests.support.forger import Forger

SERVICES = ("author", "conference")


def forger(deployment: Deployment, service: str) -> Forger:
    return Forger(deployment.stack.folder, service, next(name for name in SERVICES if name != service))


async def refused(deployment: Deployment, service: str, ask: Callable[[dict[str, str]], Any]) -> None:
    for how, wrong in forger(deployment, service).wrong().items():
        token, status, reason = wrong.token, wrong.status, wrong.reason
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
    wrong = [one for service in SERVICES for one in forger(deployment, service).wrong().values()]
    tokens = [one.token for one in wrong if one.token]
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
