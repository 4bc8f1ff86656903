"""The two stores are one: any commands, in any order, get the same replies from both and leave the same state.

`pytest --hypothesis-profile=thorough` runs thirty times as many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from tally.halves.memory import MemoryStore
from tally.protocol import messages as wire
from tally.protocol import operation
from tally.protocol.participant import Decision, Mark, Row
from tests.contract.stores.commands import Do, scripts
from tests.support.stores import PARTIES, SEATED_PARTIES, MemoryKit, Party, PostgresKit, party_id

settings.register_profile("thorough", max_examples=3000)

EVERY_EXAMPLE = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Twins:
    """The two stores of one party, and the event loop that PostgreSQL's connection lives in."""

    def __init__(self, runner: asyncio.Runner, address: str, party: Party) -> None:
        self.party = party
        self._runner = runner
        self._connection = runner.run(_connect(address))
        self._postgres = PostgresKit(*party, self._connection)

    def run(self, script: list[Do], reference: type[MemoryStore] = MemoryStore) -> None:
        self._runner.run(self._compare(script, reference))

    async def _compare(self, script: list[Do], reference: type[MemoryStore]) -> None:
        memory = MemoryKit(*self.party, reference)
        await self._postgres.reset()
        for command in script:
            mark = memory.store.state
            expected = await command.to(memory, mark)
            assert await command.to(self._postgres, mark) == expected, command
        assert await self._postgres.state() == await memory.state()

    def close(self) -> None:
        self._runner.run(self._connection.close())


async def _connect(address: str) -> Any:
    return await asyncpg.connect(address)


@pytest.fixture(scope="module", params=PARTIES, ids=party_id)
def twins(request: pytest.FixtureRequest, addresses: dict[Party, str]) -> Iterator[Twins]:
    with asyncio.Runner() as runner:
        twins = Twins(runner, addresses[request.param], request.param)
        yield twins
        twins.close()


@EVERY_EXAMPLE
@given(script=scripts)
def test_both_stores_answer_every_command_alike_and_end_alike(twins: Twins, script: list[Do]) -> None:
    twins.run(script)


# -- the test of the test: each of these is a reference store with one thing wrong


class SellsOneSeatMore(MemoryStore):
    def _seat(self, right: UUID) -> bool:
        return right not in self.capacity or self.taken(right) <= self.capacity[right]


class ForgetsThatAnEpochIsClosed(MemoryStore):
    def _row(self, op: UUID) -> Row:
        row = super()._row(op)
        return Row.OPEN if row is Row.CLOSED and operation.time_ms(op) == self.state.closed else row


class ForgetsWhatStoodInTheWay(MemoryStore):
    def _write(self, op: UUID, decision: Decision, pair: tuple[UUID, UUID] | None) -> None:
        super()._write(op, decision, pair)
        if op in self.rows:
            self.rows[op].other = None


class TellsNobodyOfACancel(MemoryStore):
    def _tell(self, type: str, op: UUID) -> None:
        if type == "confirmed":
            super()._tell(type, op)


class ConfirmsWhatIsDead(MemoryStore):
    async def settle(self, message: wire.Settle) -> wire.Settled:
        self._open()
        before: Mark = self.state
        reply = await super().settle(message)
        if reply.applied and before.settled != reply.settled:
            return wire.Settled(True, len(message.matched), reply.settled)
        return reply


class LeavesTheHalvesOfADeletedEntity(MemoryStore):
    def delete(self, entity: UUID) -> None:
        self.entities.pop(entity, None)
        self.capacity.pop(entity, None)


(SEATED,) = SEATED_PARTIES
WRONG = [
    SellsOneSeatMore,
    ForgetsThatAnEpochIsClosed,
    ForgetsWhatStoodInTheWay,
    TellsNobodyOfACancel,
    ConfirmsWhatIsDead,
    LeavesTheHalvesOfADeletedEntity,
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda kind: kind.__name__)
def test_a_store_that_is_a_little_wrong_is_found_out(addresses: dict[Party, str], wrong: type[MemoryStore]) -> None:
    with asyncio.Runner() as runner:
        twins = Twins(runner, addresses[SEATED], SEATED)

        @settings(
            EVERY_EXAMPLE,
            max_examples=1000,
            database=None,
            derandomize=True,
            phases=[Phase.generate],
            report_multiple_bugs=False,
        )
        @given(script=scripts)
        def stays_unnoticed(script: list[Do]) -> None:
            twins.run(script, wrong)

        try:
            with pytest.raises(Exception) as found:
                stays_unnoticed()
            assert isinstance(found.value, AssertionError | KeyError), found.value
        finally:
            twins.close()
