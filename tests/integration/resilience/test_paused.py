"""The conference service holds its connections and answers nobody, under load: nobody waits past the deadline."""

from __future__ import annotations

import asyncio
from random import Random

import psutil
import pytest

from tests.integration.resilience.deployment import Answer, Deployment, at_once

pytestmark = pytest.mark.chaos

PAUSE_S = 30.0
CLIENTS = 12
DEADLINE_S, GRACE_S = 2.0, 0.5
CONNECTIONS_MAX = 32
"""Of the gateway to one peer."""

P99_FLOOR_S = 0.05
"""Of a service's own requests: what is below it is this machine's noise, not the pause's doing."""

MEMORY_GROWTH_MAX = 64 * 1024 * 1024


async def test_a_paused_service_makes_nobody_wait_past_the_deadline_and_fills_nothing_up(
    deployment: Deployment,
) -> None:
    events, authors = [await deployment.event() for _ in range(8)], [await deployment.author() for _ in range(16)]
    gateway = psutil.Process(deployment.stack.process("gateway"))
    conference_port = deployment.stack.places["conference"].port

    async def create(random: Random) -> Answer:
        return await deployment.create(random.choice(events), random.choice(authors))

    async def own(random: Random) -> Answer:
        return await deployment.ask("author", "GET", f"/author/{random.choice(authors)}")

    await at_once(CLIENTS, 3, create)
    before = p99_s([answer for _ in range(20) for answer in await at_once(4, 10, own)])
    memory = gateway.memory_info().rss
    answers: list[Answer] = []
    owns: list[Answer] = []
    connections: list[int] = []
    deployment.stack.pause("conference")
    try:
        until_s = asyncio.get_running_loop().time() + PAUSE_S

        async def asking(number: int) -> None:
            random = Random(number)
            while asyncio.get_running_loop().time() < until_s:
                answers.append(await create(random))
                await asyncio.sleep(0.02)

        async def watching() -> None:
            while asyncio.get_running_loop().time() < until_s:
                owns.extend(await at_once(4, 10, own))
                outgoing = [one for one in gateway.net_connections("tcp") if one.raddr]
                connections.append(sum(one.raddr.port == conference_port for one in outgoing))
                await asyncio.sleep(0.2)

        await asyncio.gather(watching(), *map(asking, range(CLIENTS)))
    finally:
        deployment.stack.resume("conference")
    assert max(answer.took_s for answer in answers) <= DEADLINE_S + GRACE_S
    assert {answer.status for answer in answers} <= {200, 201, 503, 504}
    assert all(answer.body["operation"] for answer in answers if answer.status == 504)
    assert max(connections) <= CONNECTIONS_MAX
    assert gateway.memory_info().rss - memory <= MEMORY_GROWTH_MAX
    assert {answer.status for answer in owns} == {200}
    assert p99_s(owns) <= max(2 * before, P99_FLOOR_S)
    await deployment.healed()
    for author in authors:
        await deployment.agreed("author", author)
    # What was told stays told: an unknown outcome is decided now (of the oldest only that they are nothing any more).
    told = [await deployment.operation(answer.body["operation"]) for answer in answers if answer.status == 504]
    assert set(told) <= {"done", "refused", "cancelled", "gone"}
    print(f"{len(answers)} creates, slowest {max(a.took_s for a in answers):.2f} s, {len(told)} unknown; author p99 "
          f"{before * 1000:.0f} -> {p99_s(owns) * 1000:.0f} ms, {max(connections)} connections")  # fmt: skip


def p99_s(answers: list[Answer]) -> float:
    return sorted(answer.took_s for answer in answers)[int(len(answers) * 0.99)]
