"""Two conference processes share the database: one settles, the other takes over, and each event is told once."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from tests.integration.statements.recorded import recording, storm
from tests.integration.statements.second import second
from tests.integration.statements.stage import Stage

STORM_S = 2.0


@pytest.fixture(scope="module", autouse=True)
def other_conference(stage: Stage) -> Iterator[str]:
    with second(stage.stack, "conference") as here:
        yield here.url


async def test_a_settler_that_is_killed_is_replaced_and_every_operation_is_confirmed_once(
    stage: Stage, tmp_path: Path
) -> None:
    event = stage.event()
    pairs = [(UUID(author), UUID(event)) for author in stage.authors(8)]
    recorded = recording(stage, tmp_path, pairs)
    async with recorded.client() as client:
        await asyncio.gather(*(storm(client, pairs, Random(i), STORM_S) for i in range(4)))
        # What was created last is not confirmed yet. Its settler dies, and the other process goes on.
        stage.stack.kill("conference")
        try:
            await asyncio.to_thread(stage.next_settlement)
        finally:
            await asyncio.to_thread(stage.stack.start_service, "conference")
            await asyncio.to_thread(stage.recovered)
        await asyncio.gather(*(storm(client, pairs, Random(10 + i), STORM_S) for i in range(4)))
    assert await recorded.violations() == ""
