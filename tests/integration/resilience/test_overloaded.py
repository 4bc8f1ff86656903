"""Many more clients than there is room for: some are refused early, the others are served, and health answers.

The clients share the machine with the services, which takes from the goodput of both.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from random import Random

import pytest

from tests.integration.resilience.deployment import Answer, Deployment, at_once, median_s

pytestmark = pytest.mark.chaos

PEAK, OVERLOAD = 32, 640
GOODPUT_MIN = 0.8
HEALTH_MEDIAN_MAX_S = 1.0


async def test_overload_is_shed_early_the_rest_is_served_and_nothing_told_is_lost(deployment: Deployment) -> None:
    authors = [await deployment.author() for _ in range(40)]
    told: dict[str, set[str]] = {author: set() for author in authors}
    events: list[str] = [await deployment.event() for _ in range(100)]

    async def create(random: Random) -> Answer:
        author = random.choice(authors)
        answer = await deployment.create(random.choice(events), author)
        if answer.status in (200, 201):
            told[author].add(answer.body["operation"])
        return answer

    async def rate(clients: int, each: int) -> tuple[float, list[Answer]]:
        began_s = time.monotonic()
        answers = await at_once(clients, each, create)
        done = sum(answer.status in (200, 201) for answer in answers)
        return done / (time.monotonic() - began_s), answers

    peak, _ = await rate(PEAK, 30)
    shed = await deployment.metric("gateway", "tally_shed_total")
    healthy: list[Answer] = []

    async def health() -> None:
        while True:
            asked = (deployment.ask(service, "GET", "/livez", admin=True) for service in deployment.stack.places)
            healthy.extend(await asyncio.gather(*asked))
            await asyncio.sleep(0.1)

    asking = asyncio.create_task(health())
    goodput, answers = await rate(OVERLOAD, 4)
    asking.cancel()
    outcomes = Counter(answer.status for answer in answers)
    shed = await deployment.metric("gateway", "tally_shed_total") - shed
    figures = (
        f"peak {peak:.0f}/s, overload {goodput:.0f}/s, {dict(outcomes)}, shed {shed:.0f}, health {len(healthy)} x "
    )
    print(figures + f"{median_s(healthy):.2f} s, {max(answer.took_s for answer in healthy):.2f} s at most")
    assert set(outcomes) <= {200, 201, 503, 504}, figures
    assert outcomes[503] > 0
    assert shed > 0
    assert all(int(answer.headers["Retry-After"]) >= 1 for answer in answers if answer.code == "overloaded")
    assert goodput >= GOODPUT_MIN * peak, figures
    assert {answer.status for answer in healthy} == {200}
    assert median_s(healthy) <= HEALTH_MEDIAN_MAX_S
    for author in authors:
        assert told[author] <= await deployment.agreed("author", author)
