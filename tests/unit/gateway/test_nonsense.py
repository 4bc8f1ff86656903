"""Participants whose answers are well-formed and absurd: nothing is raised, nothing spins, and nothing of it lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random
from typing import Any
from uuid import UUID

import msgspec
import pytest

from services.attendance import ATTENDANCE
from tally.chassis.clock import SystemClock
from tally.gateway import outcome
from tally.gateway.cancel import Canceller
from tally.gateway.create import Creator
from tally.gateway.observer import Unobserved
from tally.gateway.participants import Participants
from tally.gateway.read import Page, Reader
from tally.gateway.status import State, StatusReader
from tally.halves.peer import Peer
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline
from tests.integration.deferred.deployment import Owners

CLOCK = SystemClock()
YEAR_2100_MS = 4_102_444_800_000
Change = Callable[[dict[str, Any]], None]


class Scene:
    """A gateway before two participants in memory; what the right one says can be changed on its way."""

    def __init__(self) -> None:
        self.owners = Owners()
        peers = {side: Peer(ATTENDANCE, side, service) for side, service in self.owners.services.items()}
        self.participants = Participants(ATTENDANCE, peers, Unobserved())
        self.author, self.event = self.owners.author(), self.owners.event()
        self._honest = self.owners.conference.post

    async def create(self, author: UUID | None = None) -> outcome.CreateOutcome:
        creator = Creator(self.participants, CLOCK, Random(), Unobserved())
        return await creator.create(author or self.author, self.event, self.deadline())

    async def cancel(self) -> outcome.CancelOutcome:
        canceller = Canceller(self.participants, CLOCK, Unobserved())
        return await canceller.cancel(self.author, self.event, self.deadline(0.5))

    async def page(self, by: Side) -> Page:
        entity = self.author if by is Side.LEFT else self.event
        return await Reader(self.participants, CLOCK, Unobserved()).page(by, entity, None, 5, self.deadline())

    def deadline(self, seconds: float = 1.0) -> Deadline:
        return Deadline.after(seconds, CLOCK.monotonic_s())

    def says(self, message: str, change: Change) -> None:
        async def post(peer: str, path: str, body: bytes, **more: Any) -> Any:
            reply = await self._honest(peer, path, body, **more)
            if not path.endswith(f"/{message}"):
                return reply
            changed = msgspec.json.decode(reply)
            change(changed)
            return msgspec.json.encode(changed)

        self.owners.conference.post = post  # type: ignore[method-assign]

    def is_honest(self) -> None:
        self.owners.conference.post = self._honest  # type: ignore[method-assign]


@pytest.mark.parametrize("closed", [YEAR_2100_MS, 2**48 - 1, 2**50])
async def test_an_untrue_word_of_closed_epochs_is_forgotten_with_the_next_true_one(closed: int) -> None:
    scene = Scene()
    scene.says("record", lambda reply: reply.update(closed=closed))
    await scene.create()
    scene.is_honest()
    await scene.create(scene.owners.author())  # hears the truth
    assert isinstance(await scene.create(scene.owners.author()), outcome.Created)


async def test_cancel_that_is_answered_with_recorded_has_no_answer_and_the_loop_goes_on() -> None:
    scene = Scene()
    made = await scene.create()
    assert isinstance(made, outcome.Created)
    scene.says("cancel", lambda reply: reply.update(items=[["recorded"]]))
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0.01)

    counting = asyncio.create_task(count())
    cancelled = await scene.cancel()
    counting.cancel()
    # One side has acknowledged it: it is ended, and the settler tells the other one.
    assert cancelled == outcome.Cancelled(made.op)
    assert turns > 10


def _list(**changes: Any) -> Change:
    """The first list of the reply with some of its parts changed."""

    def change(reply: dict[str, Any]) -> None:
        for i, part in enumerate(("ops", "others", "entities", "shadows")):
            if part in changes:
                reply["items"][0][i] = changes[part]

    return change


@pytest.mark.parametrize("by", Side)
@pytest.mark.parametrize(
    "change",
    [
        _list(ops=["zzz"] * 9, others=["x"] * 9, entities=[{}] * 9),
        _list(ops=["zzz"]),
        _list(others=[]),
        _list(entities=[{}, {}, {}]),
        _list(shadows=[{}, {}, {}]),
    ],
    ids=["no operations", "no operation", "too few others", "too many entities", "too many copies"],
)
async def test_lists_that_make_no_sense_are_as_good_as_none(by: Side, change: Change) -> None:
    scene = Scene()
    made = await scene.create()
    assert isinstance(made, outcome.Created)
    scene.says("list", change)
    page = await scene.page(by)
    assert [one.service for one in page.missing] == ["conference"]
    assert [op for op, _, _ in page.items] == [str(made.op)]


async def test_a_status_that_nobody_knows_is_as_good_as_none() -> None:
    scene = Scene()
    made = await scene.create()
    assert isinstance(made, outcome.Created)
    scene.says("status", lambda reply: reply.update(items=[["alive"]]))
    told = await StatusReader(scene.participants, CLOCK).operation(made.op, scene.deadline())
    assert told.state is State.UNKNOWN
    assert told.rows[Side.RIGHT] == "unreachable"
