"""Who looks again after a pause is shown what is seen now, and nothing of what was seen before the pause."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID

import msgspec

from services.attendance import ATTENDANCE
from tally.chassis.client import Client, NotSent, Outcome, Reply
from tally.gateway.ui.lookout import PAUSE_S, Lookout, Visitor
from tally.protocol import messages as wire

NOBODY = UUID(int=0)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def now_ms(self) -> int:
        return int(self.now_s * 1000)

    def monotonic_s(self) -> float:
        return self.now_s


class Participants:
    """Each has closed what is written here; who is not here is away."""

    def __init__(self, **closed: int) -> None:
        self.closed = closed

    async def post(self, peer: str, path: str, body: bytes, **_: Any) -> Outcome:
        if (closed := self.closed.get(peer)) is None:
            return NotSent("refused")
        return Reply(msgspec.json.encode(wire.Statuses(NOBODY, NOBODY, closed, [])))


def scene(**closed: int) -> tuple[Lookout, Participants, Clock]:
    there, clock = Participants(**closed), Clock()
    return Lookout(ATTENDANCE, cast(Client, there), cast(Visitor, None), {}, clock), there, clock


async def test_an_epoch_is_not_known_until_both_sides_have_answered_somebody_who_looks() -> None:
    lookout, there, clock = scene(author=7, conference=8)
    await lookout.look()
    assert lookout.closed_ms == 7
    clock.now_s += PAUSE_S + 1
    there.closed = {"conference": 9}
    await lookout.look()
    assert lookout.closed_ms is None
    there.closed = {"author": 9, "conference": 9}
    await lookout.look()
    assert lookout.closed_ms == 9


async def test_an_epoch_stays_known_while_somebody_looks() -> None:
    lookout, there, clock = scene(author=7, conference=8)
    await lookout.look()
    clock.now_s += 1
    there.closed = {"conference": 9}
    await lookout.look()
    assert lookout.closed_ms == 7


async def test_since_when_somebody_is_away_is_not_told_by_who_was_not_looking() -> None:
    lookout, there, clock = scene(author=7, conference=8)
    await lookout.look()
    there.closed = {"conference": 9}
    clock.now_s += 1
    assert (await lookout.look())[0].since_ms == clock.now_ms()
    clock.now_s += PAUSE_S + 1
    [author, _] = await lookout.look()
    assert (author.state, author.since_ms) == ("down", None)
