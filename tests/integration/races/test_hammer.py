"""Eight connections do anything to few operations, pairs and entities; then the invariants are looked up in SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

import asyncpg
import pytest

from tally.protocol import messages as wire
from tally.protocol.operation import time_ms
from tally.protocol.participant import Answer
from tally.protocol.relationship import Side
from tests.integration.races.arena import Arena, Racer, on_any_side
from tests.support.stores import State, counts_seats, left_id, op_at, own_of, right_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONNECTIONS = 8
STEPS = 120
ENTITIES = 4
RECENT = 40


@dataclass
class World:
    """What the workers share: a clock that only they move, the operations they made, and what they were told."""

    side: Side
    random: Random
    clock: int = 1_000_000
    ops: list[UUID] = field(default_factory=list)
    dead: set[UUID] = field(default_factory=set)
    closings: list[tuple[int, wire.Closed]] = field(default_factory=list)

    def new_op(self) -> UUID:
        self.clock += self.random.randrange(150)
        self.ops.append(op_at(self.clock, len(self.ops)))
        return self.ops[-1]

    def some_ops(self) -> list[UUID]:
        recent = self.ops[-RECENT:] or [self.new_op()]
        return self.random.sample(recent, min(len(recent), self.random.randint(1, 8)))

    def pair(self) -> tuple[UUID, UUID]:
        return left_id(self.random.randrange(ENTITIES)), right_id(self.random.randrange(ENTITIES))

    def entity(self) -> UUID:
        return own_of(self.side, *self.pair())

    async def tells(self, ops: list[UUID], asked: Awaitable[list[wire.Verdict]]) -> None:
        """Dead is for ever: what was dead before this was asked is not live in the answer."""
        dead_before = set(self.dead)
        for op, verdict in zip(ops, await asked, strict=True):
            if verdict.answer is Answer.DEAD:
                self.dead.add(op)
            else:
                assert op not in dead_before, f"{op} was dead and is live"


async def record(world: World, racer: Racer) -> None:
    ops = [world.new_op() for _ in range(world.random.randint(1, 8))] + world.some_ops()[:2]
    world.random.shuffle(ops)
    await world.tells(ops, racer.scene.record(*[(op, world.pair()) for op in ops], now_ms=world.clock))


async def resolve(world: World, racer: Racer) -> None:
    ops = world.some_ops()
    await world.tells(ops, racer.scene.resolve(*ops))


async def kill(world: World, racer: Racer) -> None:
    ops = world.some_ops()
    await world.tells(ops, racer.scene.kill(*ops))


async def cancel(world: World, racer: Racer) -> None:
    ops = world.some_ops()
    await world.tells(ops, racer.scene.cancel(*ops))


async def ack(world: World, racer: Racer) -> None:
    await racer.scene.ack(*await racer.scene.forward(5))


async def settle(world: World, racer: Racer) -> None:
    closed = await racer.scene.close(world.clock - world.random.randrange(400), limit=world.random.choice([3, 1000]))
    world.closings.append((closed.settled, closed))
    if world.side is Side.RIGHT:
        await racer.scene.settle(closed.settled, closed.time, closed.live)


async def list_all(world: World, racer: Racer) -> None:
    closed = await racer.scene.close(0, since=0)
    world.closings.append((0, closed))


async def remove(world: World, racer: Racer) -> None:
    await racer.kit.remove(world.entity())


async def add(world: World, racer: Racer) -> None:
    with suppress(asyncpg.UniqueViolationError):  # it is there
        await racer.kit.add(world.entity(), world.random.choice([None, 1, 3]))


async def change_capacity(world: World, racer: Racer) -> None:
    if counts_seats(racer.kit.relationship, world.side):
        await racer.kit.set_capacity(world.entity(), world.random.choice([None, 0, 1, 2, 3]))


Step = Callable[[World, Racer], Awaitable[None]]
STEP_WEIGHTS: dict[Step, int] = {
    record: 12,
    resolve: 2,
    kill: 3,
    cancel: 3,
    ack: 2,
    settle: 3,
    list_all: 1,
    remove: 1,
    add: 4,
    change_capacity: 2,
}


async def work(world: World, racer: Racer) -> None:
    for _ in range(STEPS):
        (step,) = world.random.choices(list(STEP_WEIGHTS), list(STEP_WEIGHTS.values()))
        await step(world, racer)


@on_any_side
@pytest.mark.parametrize("seed", [1])
async def test_whatever_happens_at_once_the_invariants_hold(arena: Arena, seed: int) -> None:
    world = World(arena.side, Random(seed))
    for number in range(ENTITIES):
        await arena.scene.kit.add(own_of(arena.side, left_id(number), right_id(number)), 2)
    racers = [await arena.racer() for _ in range(CONNECTIONS)]
    async with asyncio.timeout(60):
        await asyncio.gather(*(work(world, racer) for racer in racers))
    state = await arena.scene.state()
    await no_pair_is_live_twice_and_no_live_half_lacks_its_entity(arena)
    if counts_seats(*arena.party):
        await every_seat_is_a_live_half(arena)
    assert not state.live & world.dead
    every_close_listed_what_is_live(state, world)
    if arena.side is Side.RIGHT:
        events_tell_what_happened(state)
    assert state.mark.settled <= state.mark.closed
    assert state.live and world.dead and len(world.closings) > 10  # or nothing was shown


async def no_pair_is_live_twice_and_no_live_half_lacks_its_entity(arena: Arena) -> None:
    name, left, right = arena.relationship.name, arena.relationship.left.entity, arena.relationship.right.entity
    own = arena.relationship.end(arena.side).entity
    eye = arena.eye
    assert not await eye.fetch(
        f"SELECT {left}, {right} FROM {name}_half WHERE st = 'L' GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert not await eye.fetch(
        f"SELECT op FROM {name}_half h WHERE st = 'L' AND NOT EXISTS (SELECT FROM {own} e WHERE e.id = h.{own})"
    )
    assert not await eye.fetch(f"SELECT op FROM {name}_half WHERE (st = 'L') <> (live_{own} IS NOT NULL)")


async def every_seat_is_a_live_half(arena: Arena) -> None:
    assert not await arena.eye.fetch(
        """
        SELECT e.id, e.capacity, s.capacity, s.taken, h.live
        FROM event e LEFT JOIN attendance_seat s ON s.event = e.id
        CROSS JOIN LATERAL (SELECT count(*) AS live FROM attendance_half WHERE event = e.id AND st = 'L') h
        WHERE s.capacity IS DISTINCT FROM e.capacity OR s.taken > s.capacity OR s.taken <> h.live
        """
    )


def every_close_listed_what_is_live(state: State, world: World) -> None:
    for since, closed in world.closings:
        missing = {op for op in state.live if since < time_ms(op) <= closed.time} - set(closed.live)
        assert not missing, f"CLOSE({closed.time}) after {since} did not list {missing}"


def events_tell_what_happened(state: State) -> None:
    for op in state.live | set(state.told):
        confirmed = time_ms(op) <= state.mark.settled
        expected = (["confirmed"] if confirmed else []) if op in state.live else ["confirmed", "cancelled"]
        assert state.told.get(op, []) == expected, op
