"""Statement 6: two gateways create, cancel and create one pair again, against each other."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.integration.statements.recorded import recording, storm
from tests.integration.statements.second import second
from tests.integration.statements.stage import Stage

ROUNDS, ROUND_S = 3, 1.5
CLIENTS_PER_GATEWAY = 2


@pytest.fixture(scope="module")
def other_gateway(stage: Stage) -> Iterator[str]:
    with second(stage.stack, "gateway") as here:
        yield here.url


async def test_two_gateways_against_each_other_agree_within_one_settlement_and_none_is_stuck(
    stage: Stage, other_gateway: str, tmp_path: Path
) -> None:
    event, author = stage.event(), stage.author()
    pairs = [(UUID(author), UUID(event))]
    recorded = recording(stage, tmp_path)
    async with recorded.client() as here, recorded.client(other_gateway) as there:
        for number in range(ROUNDS):
            clients = [here, there] * CLIENTS_PER_GATEWAY
            storms = [storm(client, pairs, Random(10 * number + i), ROUND_S) for i, client in enumerate(clients)]
            await asyncio.gather(*storms)
            await recorded.settled()
            by_event, by_author = await asyncio.to_thread(stage.shown, event, author)
            assert by_event == by_author
            # Neither gateway, nor the pair, is stuck: it can be cancelled by one and created by the other.
            answers = await asyncio.to_thread(hand_over, stage, event, author, other_gateway)
            assert answers in ([201, 204, 201, 200], [200, 204, 201, 200])
    assert await recorded.violations() == ""


def hand_over(stage: Stage, event: str, author: str, other: str) -> list[int]:
    return [
        stage.create(event, author).status,
        stage.cancel(event, author, gateway=other).status,
        stage.create(event, author, gateway=other).status,
        stage.create(event, author).status,
    ]
