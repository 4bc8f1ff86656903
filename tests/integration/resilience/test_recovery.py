"""A service comes back while clients go on asking at an even rate: it is found again, and nobody rushes in.

The rate is even whatever is answered (an open loop): as many creates begin in each second of the outage and of the
recovery as before, so what the gateway adds of its own would show as calls above the steady rate.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from random import Random

import pytest

from tests.integration.resilience.deployment import Answer, Deployment, until

pytestmark = pytest.mark.chaos

RATE_PER_S = 60
STEADY_S = 4.0
WINDOW_S = 1.0
HERD_MAX = 1.2
PROBE_S = 1.0
"""What one attempt may take."""

Sample = tuple[float, float]
"""A time, and how many calls the gateway had sent to the conference service until then."""


@asynccontextmanager
async def asking(deployment: Deployment) -> AsyncIterator[list[Answer]]:
    """Creates at an even rate, and what they are answered."""
    events = [await deployment.event() for _ in range(8)]
    authors = [await deployment.author() for _ in range(32)]
    answers: list[Answer] = []
    random = Random(1)

    async def one() -> None:
        answers.append(await deployment.create(random.choice(events), random.choice(authors)))

    async def all_the_time() -> None:
        async with asyncio.TaskGroup() as tasks:
            next_s = time.monotonic()
            while True:
                tasks.create_task(one())
                next_s += 1 / RATE_PER_S
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))

    running = asyncio.create_task(all_the_time())
    try:
        yield answers
    finally:
        running.cancel()


@asynccontextmanager
async def counting(deployment: Deployment) -> AsyncIterator[list[Sample]]:
    """The gateway's calls to the conference service, looked at about twice in each window."""
    samples: list[Sample] = []

    async def look() -> None:
        while True:
            samples.append((time.monotonic(), await deployment.attempts("gateway", "conference")))
            await asyncio.sleep(WINDOW_S / 2)

    looking = asyncio.create_task(look())
    try:
        yield samples
    finally:
        looking.cancel()


def rates_per_s(samples: list[Sample], from_s: float, to_s: float) -> list[float]:
    """In windows of about `WINDOW_S` that lie between two times."""
    within = [sample for sample in samples if from_s <= sample[0] <= to_s][::2]
    return [(after - before) / (then - now) for (now, before), (then, after) in pairwise(within)]


async def test_under_an_even_load_it_is_found_again_by_one_probe_and_gets_no_more_calls_than_before(
    deployment: Deployment,
) -> None:
    stack = deployment.stack
    async with asking(deployment) as answers, counting(deployment) as samples:
        began_s = time.monotonic()
        await asyncio.sleep(STEADY_S)
        steady_per_s = max(rates_per_s(samples, began_s, time.monotonic()))
        await asyncio.to_thread(stack.stop_service, "conference")

        async def is_in(*states: str) -> bool:
            return (await deployment.breakers())["conference/write"]["state"] in states

        await until(lambda: is_in("open"), "the breaker is open")
        await asyncio.sleep(STEADY_S)
        await asyncio.to_thread(stack.start_service, "conference")
        back_s = time.monotonic()
        wait_s = (await deployment.breakers())["conference/write"]["retry_after_s"] or 0.0
        await until(lambda: is_in("closed"), "the breaker is closed")
        found_s = time.monotonic()
        served = len([answer for answer in answers if answer.status in (200, 201)])
        await asyncio.sleep(STEADY_S)
        recovery = rates_per_s(samples, back_s, time.monotonic())
        served = len([answer for answer in answers if answer.status in (200, 201)]) - served
    print(
        f"steady {steady_per_s:.0f} calls/s, in the recovery {max(recovery):.0f} at most; found "
        f"{found_s - back_s:.2f} s after it was ready (its probe was due in {wait_s:.2f} s)"
    )
    assert max(recovery) <= HERD_MAX * steady_per_s
    assert found_s - back_s <= wait_s + PROBE_S
    assert served >= 0.9 * RATE_PER_S * STEADY_S
    assert {answer.status for answer in answers} <= {200, 201, 503, 504}
