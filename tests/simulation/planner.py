"""Draws a plan from a seed.

Each seed has its own character (a few kinds of faults, often or rarely; a storm of clients or a few), because runs
in which everything goes wrong a little are all alike. Few pairs and few seats: what is rare is what meets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from tally.protocol.relationship import Relationship, Side
from tests.simulation.plan import (
    Action,
    Ask,
    Cancel,
    Crash,
    Create,
    Delete,
    Fault,
    Jump,
    Make,
    OpenCircuit,
    Plan,
    Read,
    Resize,
    Settings,
    Step,
    Storm,
    Trouble,
)

#: The settler that is a process of its own; the other one runs inside the right service.
SETTLER = "settler"

_MESSAGES = ("record", "resolve", "kill", "cancel", "find", "list", "close", "settle", "forward", "ack", "status")
#: How often each kind of message is singled out by a storm.
_MESSAGE_WEIGHTS = (8, 3, 4, 3, 1, 1, 2, 2, 1, 1, 1)
#: How late "late" is: overtaken by its neighbours, by a resolve, by the settler, by everything.
_AMOUNTS_S = (0.05, 0.3, 1.0, 3.0, 8.0, 20.0)
#: What a siege is of, and how often.
_SIEGES = {
    Trouble.REPEATED: 3,
    Trouble.MUTE: 4,
    Trouble.SLOW: 3,
    Trouble.LATE: 2,
    Trouble.LOST: 1,
    Trouble.COMMITTED: 1,
}


def draw(seed: int, relationship: Relationship) -> Plan:
    """The plan of ``seed``."""
    random = Random(seed)
    settings = _settings(seed, random, relationship)
    return Plan(settings, _steps(random, settings, relationship), _faults(random, settings, relationship))


def hosts(settings: Settings, relationship: Relationship) -> list[str]:
    return [*gateways(settings), relationship.left.service, relationship.right.service, SETTLER]


def gateways(settings: Settings) -> list[str]:
    return [f"gateway-{i + 1}" for i in range(settings.gateways)]


def _settings(seed: int, random: Random, relationship: Relationship) -> Settings:
    rights = random.choice((1, 2, 2, 3))
    has_seats = relationship.right.seats is not None and random.random() < 0.8
    settings = Settings(
        seed=seed,
        relationship=relationship.name,
        gateways=random.choice((2, 2, 3)),
        seats=tuple(random.choice((1, 1, 2, 3, None)) if has_seats else None for _ in range(rights)),
        lefts=random.choice((1, 2, 3, 5)),
        request_deadline_s=random.choice((2.0, 2.0, 0.6)),
        attempt_timeout_s=random.choice((5.0, 1.0, 0.3)),
        lag_s=random.choice((2.0, 2.0, 0.5)),
        period_s=random.choice((1.0, 1.0, 0.3)),
        latency_s=random.choice((0.0, 0.002, 0.02, 0.1)),
        skew_ms=(),
        heal_at_s=random.uniform(5, 9),
        void_keep_ms=random.choice((60_000, 14_000, 0)),
        list_max=random.choice((10_000, 10_000, 3, 1)),
        narrow=random.random() < 0.25,
    )
    return _skewed(random, settings, hosts(settings, relationship))


def _skewed(random: Random, settings: Settings, names: Sequence[str]) -> Settings:
    widths = {"none": 0, "little": 50, "as guarded": int(settings.lag_s * 500), "too much": 8_000}
    width = widths[random.choices(list(widths), (2, 4, 3, 2))[0]]
    return replace(settings, skew_ms=tuple((name, random.randint(-width, width)) for name in names))


# -- clients


def _steps(random: Random, settings: Settings, relationship: Relationship) -> tuple[Step, ...]:
    clients = random.randint(3, 9)
    pause_s = random.choice((0.0, 0.02, 0.2, 0.8))
    hangs_up = random.choice((0.0, 0.0, 0.1))
    weights = _character(random, settings)
    steps = []
    for client in range(clients):
        left_s = settings.heal_at_s - 0.5
        for number in range(random.randint(4, 16)):
            pause = random.expovariate(1 / pause_s) if pause_s else 0.0
            if number == 0:
                pause += random.uniform(0, 2)
            left_s -= pause
            if left_s < 0:
                break
            give_up_s = random.uniform(0, settings.request_deadline_s) if random.random() < hangs_up else None
            gateway = random.randrange(settings.gateways)
            steps.append(Step(client, round(pause, 4), gateway, _action(random, settings, weights), give_up_s))
    return tuple(steps)


def _character(random: Random, settings: Settings) -> dict[type, float]:
    """How often each action comes."""
    entities = random.choice((0.0, 0.4, 1.5))
    seats = random.choice((0.0, 0.5)) if any(seats is not None for seats in settings.seats) else 0.0
    return {
        Create: 6.0,
        Cancel: random.choice((1.0, 4.0, 8.0)),
        Read: random.choice((1.0, 3.0, 8.0)),
        Ask: 1.0,
        Delete: entities,
        Make: 2 * entities,
        Resize: seats,
    }


def _action(random: Random, settings: Settings, weights: dict[type, float]) -> Action:
    kind = random.choices(list(weights), list(weights.values()))[0]
    left, right = random.randrange(settings.lefts), random.randrange(settings.rights)
    side = random.choice(tuple(Side))
    entity = left if side is Side.LEFT else right
    if kind is Read:
        return Read(side, entity, random.choice((1, 1, 2, 50)))
    if kind is Ask:
        return Ask(random.choice((1, 1, 2, 5, 20)))
    if kind is Resize:
        return Resize(right, random.randint(0, 3))
    if kind in (Delete, Make):
        return kind(side, entity)
    return kind(left, right)


# -- faults


def _faults(random: Random, settings: Settings, relationship: Relationship) -> tuple[Fault, ...]:
    if random.random() < 0.1:
        return ()  # nothing goes wrong: what's left is contention
    names = hosts(settings, relationship)
    services = [relationship.left.service, relationship.right.service]
    kinds = random.sample(list(Trouble), random.randint(1, 5))
    faults: list[Fault] = [
        _storm(random, settings, names, services, kinds) for _ in range(random.choice((0, 1, 2, 4, 7)))
    ]
    faults += [_partition(random, settings, names, services) for _ in range(random.choice((0, 0, 0, 1, 2)))]
    faults += [_siege(random, settings) for _ in range(random.choice((0, 1, 1, 2, 3)))]
    faults += [_crash(random, settings, names) for _ in range(random.choice((0, 0, 1, 2, 4)))]
    faults += [_jump(random, settings, names) for _ in range(random.choice((0, 0, 0, 1, 2)))]
    faults += [_circuit(random, settings, names, services) for _ in range(random.choice((0, 0, 0, 1)))]
    return tuple(faults)


def _while(random: Random, settings: Settings) -> tuple[float, float]:
    start_s = random.uniform(0, settings.heal_at_s - 1)
    return round(start_s, 3), round(min(settings.heal_at_s, start_s + random.choice((0.5, 2.0, 5.0, 9.0))), 3)


def _storm(
    random: Random, settings: Settings, names: Sequence[str], services: Sequence[str], kinds: Sequence[Trouble]
) -> Storm:
    trouble = random.choice(kinds)
    start_s, end_s = _while(random, settings)
    rare = trouble in (Trouble.SENDER_DIES, Trouble.DIES_BEFORE, Trouble.DIES_AFTER)
    return Storm(
        trouble,
        start_s,
        end_s,
        random.choice((0.03, 0.1)) if rare else random.choice((0.05, 0.2, 0.5, 1.0)),
        random.choice((0.1, 0.5, 2.0)) if rare else random.choice(_AMOUNTS_S),
        source=random.choice(names) if random.random() < 0.3 else None,
        target=random.choice(services) if random.random() < 0.5 else None,
        message=random.choices(_MESSAGES, _MESSAGE_WEIGHTS)[0] if random.random() < 0.5 else None,
    )


def _partition(random: Random, settings: Settings, names: Sequence[str], services: Sequence[str]) -> Storm:
    """A link that is down, in one direction or in both."""
    start_s, end_s = _while(random, settings)
    trouble = random.choice((Trouble.LOST, Trouble.MUTE, Trouble.REFUSED, Trouble.RESET, Trouble.LATE))
    source = random.choice((None, *names))
    return Storm(trouble, start_s, end_s, 1.0, random.choice(_AMOUNTS_S), source, random.choice(services))


def _siege(random: Random, settings: Settings) -> Storm:
    """One kind of message finds nobody: what comes before it works, so there is something to be undecided about."""
    start_s, end_s = _while(random, settings)
    trouble = random.choices(list(_SIEGES), list(_SIEGES.values()))[0]
    message = random.choice(("record", "record", "record", "resolve", "kill", "cancel", "cancel", "settle"))
    return Storm(trouble, start_s, end_s, random.choice((0.5, 0.9, 1.0)), random.choice(_AMOUNTS_S), message=message)


def _crash(random: Random, settings: Settings, names: Sequence[str]) -> Crash:
    at_s = random.uniform(0.1, settings.heal_at_s - 0.5)
    return Crash(random.choice(names), round(at_s, 3), random.choice((0.0, 0.3, 2.0)), random.random() < 0.2)


def _jump(random: Random, settings: Settings, names: Sequence[str]) -> Jump:
    width = random.choice((100, 1_000, 8_000))
    at_s = random.uniform(0.1, settings.heal_at_s - 0.5)
    return Jump(random.choice(names), round(at_s, 3), random.randint(-width, width))


def _circuit(random: Random, settings: Settings, names: Sequence[str], services: Sequence[str]) -> OpenCircuit:
    start_s, end_s = _while(random, settings)
    return OpenCircuit(random.choice(names), random.choice(services), start_s, end_s)
