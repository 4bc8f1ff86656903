"""Statement 6: two gateways create, cancel and create one pair again, against each other."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.chaos.client import Client, Wanted
from tests.chaos.history import Kind
from tests.integration.statements.recorded import recording, storm
from tests.integration.statements.second import second
from tests.integration.statements.stage import Stage

ROUNDS, ROUND_S = 2, 2.0
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
    recorded = recording(stage, tmp_path, pairs)
    async with recorded.client() as here, recorded.client(other_gateway) as there:
        for number in range(ROUNDS):
            clients = [here, there] * CLIENTS_PER_GATEWAY
            storms = [storm(client, pairs, Random(10 * number + i), ROUND_S) for i, client in enumerate(clients)]
            await asyncio.gather(*storms)
            await recorded.settled()
            by_event, by_author = await asyncio.to_thread(stage.shown, event, author)
            assert by_event == by_author
            # Neither gateway, nor the pair, is stuck: it can be cancelled by one and created by the other.
            answers = [await done.ask(Wanted(kind, *pairs[0])) for done, kind in hand_over(here, there)]
            assert [answer.status for answer in answers][1:] == [204, 201, 200]
    assert await recorded.violations() == ""


def hand_over(here: Client, there: Client) -> list[tuple[Client, Kind]]:
    return [(here, Kind.CREATE), (there, Kind.CANCEL), (there, Kind.CREATE), (here, Kind.CREATE)]
