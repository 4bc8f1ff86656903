"""The end of a run: all is healed, the settlers finish, the past arrives late, and everything is asked once more.

What was only a matter of time must now have come: no half alone, every cancel known, everything confirmed. And
nobody may be stuck: each pair can be related and cancelled again from any gateway, with definite answers.
"""

from __future__ import annotations

import asyncio
from itertools import chain, product
from typing import TYPE_CHECKING
from uuid import UUID

from tally.gateway import outcome
from tally.gateway.read import NoSuchEntity, Page
from tally.gateway.status import State
from tally.protocol.operation import time_ms
from tally.protocol.participant import Status
from tally.protocol.relationship import Side
from tests.simulation.clocks import BEGINNING_MS
from tests.simulation.history import Property
from tests.simulation.plan import Action, Ask, Cancel, Create, Read, Step
from tests.simulation.planner import SETTLER

if TYPE_CHECKING:
    from tests.simulation.world import World

#: Nobody's clock is wrong by more than this when all is well.
_SKEW_MS = 20
_LATENCY_S = 0.001
#: After this time void rows are gone, where the settings keep them for less.
_COLLECTED_S = 15
_DEFINITE = (outcome.Created, outcome.Already, outcome.NotFound, outcome.Full)


class Epilogue:
    """Heals a world, and looks at it closely."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._history = world.history
        self._ledger = world.ledger
        self._settings = world.settings

    async def run(self, clients: list[asyncio.Task[None]]) -> None:
        await asyncio.sleep(self._settings.heal_at_s)
        await self._heal()
        for client in clients:
            await client
        await self._drained()
        # Whatever is still on its way arrives after the settlers' pass, and after void rows were collected.
        if 0 < self._settings.void_keep_ms < _COLLECTED_S * 1000:
            await asyncio.sleep(_COLLECTED_S)
        self._world.network.flush()
        await asyncio.sleep(0.5)
        await self._drained()
        await self._statuses()
        await self._reads()
        await self._creates()
        await self._contest()
        await self._reads()
        await self._drained()
        self._finally()
        await self._clean()

    async def _heal(self) -> None:
        world = self._world
        self._history.note("world", "is healed")
        world.network.heal(_LATENCY_S)
        for host in world.hosts.values():
            host.clock.skew_ms = int(world.chance.between(-_SKEW_MS, _SKEW_MS, "healed", host.name))
        await asyncio.sleep(0.3)  # those that were told to stop have stopped
        for host in world.hosts.values():
            world.start(host)
        # Clocks that were ahead have left marks in the future, which refuse operations until they are past.
        await asyncio.sleep(self._ahead_s())

    # -- the settlers finish

    async def _drained(self) -> None:
        """Wait until the settlers have nothing left to do: a pass, after the epoch of the last operation."""
        settings, loop = self._settings, self._world.loop
        pass_s = self._ahead_s() + settings.attempt_timeout_s + settings.lag_s + 4 * settings.period_s + 1
        until_s = loop.time() + pass_s
        while (unfinished := self._unfinished()) is not None:
            if loop.time() > until_s:
                property, what = unfinished
                self._history.violate(property, f"{what}, {pass_s:.1f} s after everything was healed")
            await asyncio.sleep(0.1)

    def _ahead_s(self) -> float:
        """How far in the future the last mark or operation is."""
        stores = self._ledger.stores.values()
        marks = chain.from_iterable((store.state.closed, store.state.settled) for store in stores)
        last_ms = max(
            *marks, *map(time_ms, (*self._live(Side.LEFT), *self._live(Side.RIGHT), *self._world.office.told))
        )
        return max(0.0, (last_ms - BEGINNING_MS) / 1000 - self._world.loop.time()) + 2 * _SKEW_MS / 1000

    def _live(self, side: Side) -> set[UUID]:
        return {op for op, half in self._ledger.stores[side].rows.items() if half.status is Status.LIVE}

    def _unfinished(self) -> tuple[Property, str] | None:
        left, right = self._live(Side.LEFT), self._live(Side.RIGHT)
        if left != right:
            return Property.I3, f"lone halves: {sorted(left - right)} at the left, {sorted(right - left)} at the right"
        for side, store in self._ledger.stores.items():
            untold = [op for op, half in store.rows.items() if half.status is Status.CANCELLED]
            if untold:
                return Property.I3, f"the peer of the {side} side doesn't know yet that {untold} are cancelled"
        unconfirmed = [op for op in sorted(right) if self._ledger.operation(op).confirmed is None]
        if unconfirmed:
            return Property.I5, f"{unconfirmed} exist and aren't confirmed"
        closed = min(store.state.closed for store in self._ledger.stores.values())
        undecided = [op for op in self._world.office.told if time_ms(op) > closed]
        if undecided:
            return Property.LIVE, f"{undecided} can still be recorded"
        return None

    # -- everything once more

    async def _do(self, gateway: int, action: Action) -> object:
        return await self._world.office.do(Step(-1, 0.0, gateway % self._settings.gateways, action))

    async def _statuses(self) -> None:
        """Unknown is resolved: every operation that anybody was told of has a final state, or exists."""
        told = self._world.office.told
        for i in range(len(told)):
            status = await self._do(i, Ask(i + 1))
            operation = self._ledger.operation(told[-i - 1])
            state = getattr(status, "state", None)
            final = (State.DONE, State.REFUSED, State.CANCELLED, State.GONE)
            if state not in final or (state is State.DONE) != operation.exists:
                self._history.violate(Property.LIVE, f"after all {operation.id} is {state}: {operation.lives}")

    async def _reads(self) -> None:
        """Both directions show the same, from any gateway; what exactly, the judge knows."""
        shown: dict[Side, set[str]] = {}
        for side, count in ((Side.LEFT, self._settings.lefts), (Side.RIGHT, self._settings.rights)):
            shown[side] = set()
            for entity in range(count):
                pages = await self._do(entity, Read(side, entity, 2))
                assert isinstance(pages, list)
                for page in pages:
                    if isinstance(page, Page) and not page.missing:
                        shown[side] |= {op for op, _, _ in page.items}
                    elif not isinstance(page, NoSuchEntity):
                        self._history.violate(Property.LIVE, f"after all a read of {side} {entity} gives {page}")
        if shown[Side.LEFT] != shown[Side.RIGHT]:
            self._history.violate(Property.I1, f"the directions differ: {shown}")

    async def _creates(self) -> None:
        """Nobody is stuck: each pair can be related, cancelled, and related again, by two gateways at once."""
        for i, (left, right) in enumerate(product(range(self._settings.lefts), range(self._settings.rights))):
            related = await self._definite(i, Create(left, right))
            if isinstance(related, outcome.Created | outcome.Already):
                ended = await self._do(i + 1, Cancel(left, right))
                if not isinstance(ended, outcome.Cancelled):
                    self._history.violate(Property.LIVE, f"after all a cancel gives {ended}")
                await asyncio.gather(*(self._definite(i + 1 + k, Create(left, right)) for k in range(2)))

    async def _contest(self) -> None:
        """Three callers create and cancel one pair against each other; each gets what it wants, or is told why not."""

        async def one(gateway: int) -> None:
            for _ in range(4):
                await self._definite(gateway, Create(0, 0))
                ended = await self._do(gateway, Cancel(0, 0))
                if not isinstance(ended, outcome.Cancelled | outcome.NotRelated | outcome.NotFound):
                    self._history.violate(Property.LIVE, f"after all a contested cancel gives {ended}")

        await asyncio.gather(*(one(gateway) for gateway in range(3)))

    async def _definite(self, gateway: int, create: Create) -> object:
        answer = await self._do(gateway, create)
        if not isinstance(answer, _DEFINITE):
            self._history.violate(Property.LIVE, f"after all {create} gives {answer}")
        return answer

    # -- the end

    def _finally(self) -> None:
        for operation in self._ledger.operations.values():
            if operation.acknowledged and operation.exists:
                self._history.violate(Property.I6, f"{operation.id} exists, and its cancel was acknowledged")
            gone = operation.confirmed is not None and not operation.exists
            if gone != (operation.cancelled is not None):
                self._history.violate(Property.I5, f"{operation.id} was confirmed and is gone, or cancelled and isn't")
        self._world.office.judge.nothing_else_was_cancelled()

    async def _clean(self) -> None:
        """Gateways and participants are idle: nothing runs that nobody waits for."""
        for host in (self._world.hosts[SETTLER], self._world.owners[Side.RIGHT]):  # one settler in each
            host.process.kill()
        for gateway in self._world.gateways:
            await gateway.process.program.participants.close()
        await asyncio.sleep(0.5)
        idle = [*self._world.gateways, self._world.owners[Side.LEFT]]
        for host in idle:
            if host.process.tasks:
                self._history.violate(Property.CLEAN, f"{host.name} still runs {host.process.tasks}")
