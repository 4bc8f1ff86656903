"""Half a second more on one service's writes: no storm of retries, and a breaker that opens for slowness and closes."""

from __future__ import annotations

import json

from tests.integration.resilience.deployment import Deployment, at_once, until

CLIENTS = 8
RETRY_FLOOR = 3
"""What the budget allows beside its share: 0.2 a second, and these tests take seconds."""


async def test_a_slow_service_is_not_called_more_often_and_its_breaker_opens_for_slowness_and_closes(
    deployment: Deployment,
) -> None:
    authors = [await deployment.author() for _ in range(CLIENTS)]
    event = await deployment.event()
    log = deployment.stack.log("gateway")
    read_before = log.stat().st_size
    slow = {"kind": "latency", "latency_ms": 500, "jitter_ms": 80, "path": "/internal/attendance/record"}
    sent = await deployment.metric(
        "gateway", "http_client_request_duration_seconds_count", peer="conference", kind="write"
    )
    retried = await deployment.metric("gateway", "tally_retries_total", peer="conference")
    await deployment.faults("conference", slow)

    async def many() -> None:
        more = await deployment.event()
        await at_once(CLIENTS, 3, lambda random: deployment.create(more, random.choice(authors)))

    await deployment.until_breaker("conference/write", "open", meanwhile=many)
    now = await deployment.metric(
        "gateway", "http_client_request_duration_seconds_count", peer="conference", kind="write"
    )
    again = await deployment.metric("gateway", "tally_retries_total", peer="conference") - retried
    first = now - sent - again
    assert first > 0
    assert again <= 0.1 * first + RETRY_FLOOR
    moves = [json.loads(line) for line in log.read_bytes()[read_before:].splitlines() if b"breaker moved" in line]
    assert ("conference", "write", "open", "slow_call_rate") in [
        (move["peer"], move["kind"], move["now"], move["cause"]) for move in moves
    ]
    await deployment.faults("conference")

    async def closed() -> bool:
        await deployment.create(event, authors[0])
        return (await deployment.breakers())["conference/write"]["state"] == "closed"

    await until(closed, "the breaker is closed again")
