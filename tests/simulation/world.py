"""One run of one plan: builds the world, lets the plan happen, and tells what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from services.attendance import ATTENDANCE
from tally.gateway import status as status_module
from tally.gateway.coalescer import Coalescer
from tally.halves import memory as memory_module
from tally.halves import settler as settler_module
from tally.halves.memory import MemoryStore
from tally.halves.participant import Participant
from tally.protocol.relationship import Relationship, Side
from tests.simulation import planner, programs
from tests.simulation.chance import Chance
from tests.simulation.clients import Office, entity_id
from tests.simulation.clocks import SkewedClock
from tests.simulation.database import Database
from tests.simulation.epilogue import Epilogue
from tests.simulation.history import History, Property, Violation
from tests.simulation.ledger import Ledger
from tests.simulation.loop import Stuck, VirtualLoop
from tests.simulation.network import Indoors, Network, Wire
from tests.simulation.plan import Crash, Hit, Jump, Plan, Settings, Step
from tests.simulation.processes import Host, Process
from tests.simulation.weather import Weather
from tests.support.talks import TALK

RELATIONSHIPS = {relationship.name: relationship for relationship in (ATTENDANCE, TALK)}

#: A gateway that is easily overloaded.
_NARROW = {"batch_max": 2, "queue_max": 2, "in_flight_max": 1}

#: How long a process that was told to stop may take to end its tasks.
_GENTLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Result:
    plan: Plan
    history: History
    hits: tuple[Hit, ...]

    @property
    def violation(self) -> Violation | None:
        return self.history.violation


def plan_of(seed: int) -> Plan:
    """The plan of ``seed``: attendances if it's even, talks if it's odd."""
    return planner.draw(seed, (ATTENDANCE, TALK)[seed % 2])


def run(plan: Plan) -> Result:
    """Let ``plan`` happen."""
    with _constants(plan.settings):
        world = World(plan)
        with programs.logging_to(world.history):
            world.run()
    return Result(plan, world.history, tuple(world.network.weather.hits))


@contextmanager
def _constants(settings: Settings) -> Iterator[None]:
    """Bounds of the product that would not be reached in a few virtual seconds."""
    bounds = Coalescer.__init__.__kwdefaults__
    with (
        patch.dict(bounds, _NARROW if settings.narrow else {}),
        patch.object(memory_module, "VOID_KEEP_MS", settings.void_keep_ms),
        patch.object(status_module, "REMEMBERED_MS", settings.void_keep_ms // 2),
        patch.object(memory_module, "LIST_MAX", settings.list_max),
        patch.object(settler_module, "LIST_MAX", settings.list_max),
    ):
        yield


class World:
    """Hosts, databases, network and clients of one run."""

    def __init__(self, plan: Plan) -> None:
        settings = self.settings = plan.settings
        self.plan = plan
        self.relationship: Relationship = RELATIONSHIPS[settings.relationship]
        self.loop = VirtualLoop(settings.seed)
        self.history = History(self.loop)
        self.chance = Chance(settings.seed)
        stores = {side: MemoryStore(self.relationship, side) for side in Side}
        self.ledger = Ledger(self.history, stores)
        self.databases = {side: Database(store, self.ledger, self.chance) for side, store in stores.items()}
        weather = Weather(plan.faults, self.chance)
        self.network = Network(self.loop, weather, self.chance, self.history, settings.latency_s, self.crash)
        self.process = Process(self.loop, "world", self.escaped)
        self.hosts = self.network.hosts
        for name in planner.hosts(settings, self.relationship):
            self.hosts[name] = self._host(name)
        self.gateways = [self.hosts[name] for name in planner.gateways(settings)]
        self.owners = {side: self.hosts[self.relationship.end(side).service] for side in Side}
        self.office = Office(settings, self.history, self.ledger, self.gateways, self.owners, self.databases)

    def run(self) -> None:
        """Run to the end, or to the first violation; leaves nothing behind."""
        try:
            ended = self.process.spawn(self._run())
            ended.add_done_callback(lambda task: self.loop.stop())
            self.loop.run_forever()
        except Stuck as stuck:
            self.history.violate(Property.CLEAN, str(stuck))
        finally:
            self.history.note("world", "ends")
            for process in (*(host.process for host in self.hosts.values()), self.process):
                process.kill()
            self.loop.close()

    async def _run(self) -> None:
        self._begin()
        clients: dict[int, list[Step]] = {}
        for step in self.plan.steps:
            clients.setdefault(step.client, []).append(step)
        tasks = [self.process.spawn(self.office.run(steps)) for steps in clients.values()]
        await Epilogue(self).run(tasks)

    def _begin(self) -> None:
        """All entities exist at first; the plan's crashes and jumps have their times."""
        settings = self.settings
        for i in range(settings.lefts):
            self._name(Side.LEFT, i)
            self.databases[Side.LEFT].make(entity_id(Side.LEFT, i), None)
        for i, seats in enumerate(settings.seats):
            self._name(Side.RIGHT, i)
            self.databases[Side.RIGHT].make(entity_id(Side.RIGHT, i), seats)
        for fault in self.plan.faults:
            match fault:
                case Crash(host, at_s, down_s, gently):
                    self.loop.call_at(at_s, self.crash, self.hosts[host], down_s, gently)
                case Jump(host, at_s, by_ms):
                    self.loop.call_at(at_s, self._jump, self.hosts[host], by_ms)

    def _name(self, side: Side, number: int) -> None:
        self.history.call(entity_id(side, number), f"{self.relationship.end(side).entity}{number}")

    # -- hosts

    def _host(self, name: str) -> Host:
        skew_ms = dict(self.settings.skew_ms).get(name, 0)
        clock = SkewedClock(self.loop, skew_ms, round(self.chance.between(0, 1e5, "origin", name), 3))
        return Host(name, self.loop, clock, lambda process: self._boot(name, clock, process), self.escaped)

    def _boot(self, name: str, clock: SkewedClock, process: Process) -> object:
        """Start the program of a host."""
        settings, relationship, history = self.settings, self.relationship, self.history
        wire = Wire(self.network, process, name, clock, settings.attempt_timeout_s)
        if name == planner.SETTLER:
            return programs.settler(process, relationship, settings, wire, clock, history)
        if name not in (relationship.left.service, relationship.right.service):
            random = programs.TellingRandom(f"{settings.seed} {name} {self.loop.time()}", self.ledger.made_for)
            return programs.gateway(relationship, wire, clock, random, history)
        side = relationship.side_of(name)
        lag_ms = int(settings.lag_s * 1000)
        participant = Participant(relationship, side, self.databases[side], clock, lag_ms=lag_ms)
        if side is Side.RIGHT:
            own = Indoors(self.network, process, participant)
            programs.settler(process, relationship, settings, wire, clock, history, own)
        return participant

    def crash(self, host: Host, down_s: float, gently: bool = False) -> None:
        """End the host's process, and start another one ``down_s`` later."""
        if not host.up:
            return
        self.history.note(host.name, "is told to stop" if gently else "dies")
        self.history.count("processes told to stop" if gently else "processes killed")
        if gently:
            stopping = host.process.tasks
            host.process.cancel()
            self.process.spawn(self._stop(host, host.process, stopping, down_s))
        else:
            host.process.kill()
            self._later(down_s, self.start, host)

    async def _stop(self, host: Host, process: Process, stopping: tuple[object, ...], down_s: float) -> None:
        await asyncio.sleep(_GENTLE_S)
        if process.alive:
            if any(task in stopping for task in process.tasks):
                self.history.violate(Property.CLEAN, f"{host.name} was told to stop, and a task of it goes on")
            process.kill()
            self._later(down_s, self.start, host)

    def start(self, host: Host) -> None:
        if not host.up:
            self.history.note(host.name, "starts")
            host.start()

    def _jump(self, host: Host, by_ms: int) -> None:
        host.clock.skew_ms += by_ms
        self.history.note(host.name, "clock jumps", by_ms)
        self.history.count("clocks that jumped")

    def _later(self, in_s: float, what: object, *arguments: object) -> None:
        self.loop.call_later(in_s, what, *arguments, context=self.process.context)  # type: ignore[arg-type]

    def escaped(self, who: str, error: BaseException) -> None:
        self.history.violate(Property.CLEAN, f"an exception escaped at {who}: {error!r}")
