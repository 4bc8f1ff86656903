"""A settler whose clock is wrong closes nothing: an epoch that is closed stays so when the clock is right again."""

from __future__ import annotations

from random import Random

import pytest

from services.attendance import ATTENDANCE
from tally.chassis.clock import SystemClock
from tally.gateway import outcome
from tally.gateway.create import Creator
from tally.gateway.observer import Unobserved
from tally.gateway.participants import Participants
from tally.halves.participant import Participant
from tally.halves.peer import Peer
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline
from tests.integration.deferred.deployment import CLOCK, LAG_MS, Owners, Service


class Wrong(SystemClock):
    by_ms = 0

    def now_ms(self) -> int:
        return super().now_ms() + self.by_ms


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("by_ms", [3_600_000, -3_600_000])
async def test_a_clock_that_is_wrong_for_a_round_leaves_nothing_behind(side: Side, by_ms: int) -> None:
    clock, owners = Wrong(), Owners()
    owners.services[side] = Service(Participant(ATTENDANCE, side, owners.stores[side], clock, lag_ms=LAG_MS))
    settler = owners.settler(clock if side is Side.RIGHT else CLOCK)
    await settler.run_once()
    clock.by_ms = by_ms
    if (by_ms > 0) is (side is Side.RIGHT):
        with pytest.raises(Exception, match="the clock of the left side is behind"):
            await settler.run_once()
    else:
        await settler.run_once()
    clock.by_ms = 0
    now_ms = CLOCK.now_ms()
    assert all(store.state.closed < now_ms for store in owners.stores.values())
    peers = {side: Peer(ATTENDANCE, side, service) for side, service in owners.services.items()}
    creator = Creator(Participants(ATTENDANCE, peers, Unobserved()), CLOCK, Random(), Unobserved())
    made = await creator.create(owners.author(), owners.event(), Deadline.after(1.0, CLOCK.monotonic_s()))
    assert isinstance(made, outcome.Created)
    await settler.run_once()
