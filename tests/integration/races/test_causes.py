"""What settlement is linked to: the requests that created what it confirms."""

from __future__ import annotations

from typing import Any

import asyncpg
import pytest

from tally.halves.postgres import LINKS_MAX, PostgresStore
from tally.protocol.messages import RecordItem
from tests.support.postgres import Databases
from tests.support.stores import RIGHT_PARTIES, Party, PostgresKit, left_id, new_database, op_at, party_id, right_id

_NOW_MS = 1_800_000_000_000


def _trace(number: int) -> str:
    return f"00-{number:032x}-{1:016x}-01"


@pytest.fixture(params=RIGHT_PARTIES, ids=party_id)
def kept(request: pytest.FixtureRequest, dsn: Databases) -> tuple[Party, str]:
    return request.param, new_database(dsn, *request.param)


async def test_the_causes_of_operations_are_their_recorded_requests_and_no_more_than_a_span_links(
    kept: tuple[Party, str],
) -> None:
    party, address = kept
    connection: Any = await asyncpg.connect(address)
    try:
        kit = PostgresKit(*party, connection)
        assert isinstance(kit.store, PostgresStore)
        await kit.add(right_id(1))
        count = LINKS_MAX + 10
        items = [
            RecordItem(op_at(_NOW_MS, n), left_id(n), right_id(1), trace=_trace(n) if n > 1 else None)
            for n in range(1, count + 1)
        ]
        await kit.store.record(items, _NOW_MS)
        ops = [item.op for item in items]
        assert await kit.store.causes(ops[:1]) == [], "nobody records it"
        assert [cause.trace_id for cause in await kit.store.causes(ops[:2])] == [f"{2:032x}"]
        assert len(await kit.store.causes(ops)) == LINKS_MAX
    finally:
        await connection.close()
