"""What the settler confirms, voids and forwards is in its log, each operation once, however many they are."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from tally.chassis import logs
from tally.halves.settler import LOGGED_MAX
from tally.protocol import messages as wire
from tally.protocol.operation import make
from tally.protocol.relationship import Side
from tests.integration.deferred.deployment import CLOCK, LAG_MS, Owners

MANY = 2 * LOGGED_MAX + 1


class Recorded(Owners):
    """Halves of as many operations, on one side or on both."""

    async def recorded(self, number: int, *sides: Side) -> list[UUID]:
        now_ms = CLOCK.now_ms()
        ops = sorted(make(now_ms, n) for n in range(number))
        items = [wire.RecordItem(op, self.author(), self.event()) for op in ops]
        for side in sides:
            await self.stores[side].record(items, now_ms)
        return ops

    async def round(self) -> list[dict[str, Any]]:
        """What a round says that settles all that is there."""
        await asyncio.sleep(2 * LAG_MS / 1000)
        with logs.capture() as said:
            await self.settler().run_once()
        return said


@pytest.fixture
async def owners() -> Recorded:
    owners = Recorded()
    await owners.settler().run_once()
    return owners


def logged(said: Sequence[dict[str, Any]], event: str) -> list[UUID]:
    lines = [line for line in said if line["event"] == event]
    assert all(0 < len(line["ops"]) == line["count"] <= LOGGED_MAX for line in lines)
    return [UUID(op) for line in lines for op in line["ops"]]


async def test_every_confirmed_operation_is_logged(owners: Recorded) -> None:
    ops = await owners.recorded(MANY, *Side)
    assert logged(await owners.round(), "confirmed") == ops


@pytest.mark.parametrize(("side", "service"), [(Side.LEFT, "author"), (Side.RIGHT, "conference")])
async def test_every_voided_operation_is_logged_with_where_it_lived(owners: Recorded, side: Side, service: str) -> None:
    ops = await owners.recorded(MANY, side)
    said = await owners.round()
    assert sorted(logged(said, "voided lone halves")) == ops
    assert {line["service"] for line in said if line["event"] == "voided lone halves"} == {service}
    assert logged(said, "confirmed") == []


@pytest.mark.parametrize(("side", "to"), [(Side.LEFT, "conference"), (Side.RIGHT, "author")])
async def test_every_forwarded_operation_is_logged_with_where_to(owners: Recorded, side: Side, to: str) -> None:
    ops = await owners.recorded(MANY, *Side)
    await owners.round()
    await owners.stores[side].cancel(ops)
    said = await owners.round()
    assert sorted(logged(said, "forwarded cancels")) == ops
    assert {line["to"] for line in said if line["event"] == "forwarded cancels"} == {to}


async def test_what_was_cancelled_before_it_was_confirmed_is_not_said_to_be(owners: Recorded) -> None:
    ops = await owners.recorded(MANY, *Side)
    right, post = owners.services[Side.RIGHT], owners.services[Side.RIGHT].post

    async def late(peer: str, path: str, body: bytes, **how: Any) -> Any:
        if path.endswith("/settle"):
            await owners.stores[Side.RIGHT].cancel(ops[:1])
        return await post(peer, path, body, **how)

    right.post = late  # type: ignore[method-assign]
    said = await owners.round()
    [confirmed] = [line for line in said if line["event"] == "confirmed"]
    assert (confirmed["count"], confirmed["of_matched"], "ops" in confirmed) == (MANY - 1, MANY, False)
    assert logged(said, "matched") == ops
