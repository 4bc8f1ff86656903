"""The network: carries bytes to a host's participant and back, as well as the weather allows.

:class:`Wire` is the product's ``Transport`` as one process sees it. It promises what a real one must: a
failure says ``sent=False`` only if the message never arrives, a call ends by its deadline, and whatever else
happened is a failure that was sent. It promises nothing about order, and a message may arrive twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tally.halves.participant import Local, Participant
from tally.halves.peer import Failed, Transport
from tally.resilience.deadline import Deadline
from tests.simulation.chance import Chance
from tests.simulation.clocks import SkewedClock
from tests.simulation.database import TROUBLE, DatabaseFailed
from tests.simulation.history import History, Property
from tests.simulation.loop import VirtualLoop
from tests.simulation.plan import Trouble
from tests.simulation.processes import Host, Process
from tests.simulation.weather import Letter, Weather

_REFUSED = Failed(False, "connection refused")
_RESET = Failed(True, "connection reset")
_TIMED_OUT = Failed(True, "no reply in time")
_ERROR = Failed(True, "500: the database failed")


@dataclass(eq=False, slots=True)
class _Call:
    letter: Letter
    body: bytes
    troubles: Mapping[Trouble, float]
    reply: asyncio.Future[bytes | Failed]


@dataclass(eq=False, slots=True)
class _Flight:
    """A request on its way: the ``copy``-th of its call."""

    call: _Call
    copy: int
    timer: asyncio.TimerHandle | None = field(default=None)


class Network:
    """All links between all hosts."""

    def __init__(
        self,
        loop: VirtualLoop,
        weather: Weather,
        chance: Chance,
        history: History,
        latency_s: float,
        crash: Callable[[Host, float], None],
    ) -> None:
        self.hosts: dict[str, Host] = {}
        self.weather = weather
        self._loop = loop
        self._chance = chance
        self._history = history
        self._latency_s = latency_s
        self._crash = crash
        self._healed = False
        self._sent: Counter[tuple[str, str, str]] = Counter()
        self._flying: dict[_Flight, None] = {}
        # The network is a process too, one that never dies.
        self._process = Process(loop, "network", lambda name, error: history.violate(Property.CLEAN, repr(error)))

    async def call(self, source: Process, target: str, message: str, body: bytes, until_s: float) -> bytes | Failed:
        """Send a message for ``source``, and wait for the reply."""
        if not source.alive:
            return _RESET  # the clean-up code of a process that was killed
        self._sent[source.name, target, message] += 1
        letter = Letter(source.name, target, message, self._sent[source.name, target, message])
        self._history.count("messages")
        troubles = self._troubles(letter)
        if not self.hosts[target].up or Trouble.REFUSED in troubles:
            self._history.count("connections refused")
            await asyncio.sleep(self._latency("refused", letter))
            return _REFUSED
        call = _Call(letter, body, troubles, self._loop.create_future())
        self._depart(call)
        try:
            async with asyncio.timeout_at(until_s):
                return await call.reply
        except TimeoutError:
            return _TIMED_OUT

    def heal(self, latency_s: float) -> None:
        """No more faults; what is on its way stays as late as it is."""
        self.weather.heal()
        self._latency_s = latency_s
        self._healed = True

    def flush(self) -> None:
        """Deliver everything that is on its way now."""
        flights = sorted(self._flying, key=lambda flight: self._chance.of("flush", *flight.call.letter, flight.copy))
        self._history.note("network", "delivers what is on its way", len(flights))
        for flight in flights:
            assert flight.timer is not None
            flight.timer.cancel()
            self._fly(flight, self._chance.between(0, 0.2, "flushed", *flight.call.letter, flight.copy))

    # -- there

    def indoors(self, source: Process, message: str) -> Trouble | None:
        """What the database will do to a message that a process sends to itself."""
        self._sent[source.name, source.name, message] += 1
        letter = Letter(source.name, source.name, message, self._sent[source.name, source.name, message])
        trouble = _of_database(self.weather.troubles(letter, self._loop.time()))
        if trouble is not None:
            self._history.count(trouble.value)
            self._history.note("weather", trouble.value, *letter)
        return trouble

    def _troubles(self, letter: Letter) -> Mapping[Trouble, float]:
        troubles = self.weather.troubles(letter, self._loop.time())
        for trouble, amount_s in troubles.items():
            self._history.count(trouble.value)
            self._history.note("weather", trouble.value, *letter, amount_s)
        return troubles

    def _depart(self, call: _Call) -> None:
        troubles = call.troubles
        there_s = self._latency("there", call.letter) + troubles.get(Trouble.LATE, 0.0)
        if Trouble.SENDER_DIES in troubles:
            down_s = troubles[Trouble.SENDER_DIES]
            self._process.call_soon(self._crash, self.hosts[call.letter.source], down_s)
        if Trouble.RESET in troubles:
            self._later(there_s, self._settle, call, _RESET)
        elif Trouble.LOST not in troubles:
            self._fly(_Flight(call, 0), there_s)
        if Trouble.REPEATED in troubles:
            self._fly(_Flight(call, 1), there_s + troubles[Trouble.REPEATED])

    def _fly(self, flight: _Flight, in_s: float) -> None:
        self._flying[flight] = None
        flight.timer = self._later(in_s, self._arrive, flight)

    def _arrive(self, flight: _Flight) -> None:
        del self._flying[flight]
        call = flight.call
        host = self.hosts[call.letter.target]
        if self._kills(Trouble.DIES_BEFORE, flight):
            self._crash(host, call.troubles[Trouble.DIES_BEFORE])
        if host.up:
            host.process.spawn(self._serve(flight, host))
        elif self._chance.of("reset", *call.letter) < 0.5:
            self._settle(call, _RESET)

    def _kills(self, trouble: Trouble, flight: _Flight) -> bool:
        """Nobody dies of what arrives late when all is healed."""
        return trouble in flight.call.troubles and not flight.copy and not self._healed

    # -- at the receiver, in its process

    async def _serve(self, flight: _Flight, host: Host) -> None:
        call = flight.call
        TROUBLE.set(_of_database(call.troubles))
        try:
            answer: bytes | Failed = await host.process.program.answer(call.letter.message, call.body)
        except DatabaseFailed:
            answer = _ERROR
        if self._kills(Trouble.DIES_AFTER, flight):
            self._process.call_soon(self._crash, host, call.troubles[Trouble.DIES_AFTER])
            await self._loop.create_future()
        self._process.call_soon(self._return, flight, answer)

    # -- and back

    def _return(self, flight: _Flight, answer: bytes | Failed) -> None:
        call, troubles = flight.call, flight.call.troubles
        if Trouble.BROKEN in troubles:
            answer = _RESET
        elif Trouble.GARBLED in troubles and isinstance(answer, bytes):
            answer = answer[: len(answer) // 2]
        if Trouble.MUTE not in troubles:
            back_s = self._latency("back", call.letter) + troubles.get(Trouble.SLOW, 0.0)
            self._later(back_s, self._settle, call, answer)

    def _settle(self, call: _Call, answer: bytes | Failed) -> None:
        if not call.reply.done():
            call.reply.set_result(answer)

    def _later(self, in_s: float, callback: Callable[..., Any], *arguments: Any) -> asyncio.TimerHandle:
        return self._loop.call_later(in_s, callback, *arguments, context=self._process.context)

    def _latency(self, word: str, letter: Letter) -> float:
        """Mostly about the typical latency, now and then ten times as much, sometimes none."""
        luck = self._chance.of(word, *letter)
        if luck < 0.1:
            return 0.0
        return self._latency_s * (10 * luck if luck > 0.9 else 0.5 + luck)


def _of_database(troubles: Mapping[Trouble, float]) -> Trouble | None:
    return next((trouble for trouble in (Trouble.ROLLED_BACK, Trouble.COMMITTED) if trouble in troubles), None)


class Wire(Transport):
    """The product's transport, for one process: every peer over the network."""

    def __init__(
        self, network: Network, process: Process, host: str, clock: SkewedClock, attempt_timeout_s: float
    ) -> None:
        self._network = network
        self._process = process
        self._host = host
        self._clock = clock
        self._attempt_timeout_s = attempt_timeout_s
        self._silent_since_ms: dict[str, int] = {}

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline | None) -> bytes | Failed:
        if (open_s := self.unavailable_s(peer, kind)) is not None:
            return Failed(False, "its circuit is open", open_s)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._attempt_timeout_s
        if deadline is not None:
            until_s = min(until_s, self._clock.loop_time_s(deadline.at_s))
        reply = await self._network.call(self._process, peer, path.rsplit("/", 1)[-1], body, until_s)
        if isinstance(reply, Failed):
            self._silent_since_ms.setdefault(peer, self._clock.now_ms())
        else:
            self._silent_since_ms.pop(peer, None)
        return reply

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        return self._network.weather.open_s(self._host, peer, asyncio.get_running_loop().time())

    def silent_since_ms(self, peer: str) -> int | None:
        return self._silent_since_ms.get(peer)


class Indoors(Local):
    """The product's transport to a participant in the same process, whose database may fail as any other's."""

    def __init__(self, network: Network, process: Process, participant: Participant) -> None:
        super().__init__(participant)
        self._network = network
        self._process = process

    async def post(self, peer: str, path: str, body: bytes, **more: Any) -> Any:
        token = TROUBLE.set(self._network.indoors(self._process, path.rsplit("/", 1)[-1]))
        try:
            return await super().post(peer, path, body, **more)
        finally:
            TROUBLE.reset(token)
