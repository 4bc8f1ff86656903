"""Breadth first through every state of a scenario, checking each; the first violation has a shortest trace."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any, TypeVar

from tally.protocol import gateway
from tally.protocol.gateway import SILENT, Evidence
from tally.protocol.participant import Answer, Message, Status

from . import properties
from .network import deliveries
from .participants import Participant
from .processes import END, START, evidence, moves
from .properties import Violation
from .restores import latest_rejoin, restores
from .rules import PROTOCOL, Collection, Rules
from .scenarios import Create, Scenario
from .world import LEFT, NONE, RIGHT, Database, Item, Items, Ledger, Op, State, Step, ledger

Part = TypeVar("Part")

STATES_MAX = 10_000_000

#: Messages that may come to have no effect, ever.
FORGETTABLE = frozenset({"SETTLE", "KILL", "REJOIN"})


class World:
    """A scenario under some rules: its first state, and what may happen in any state."""

    def __init__(self, scenario: Scenario, rules: Rules = PROTOCOL) -> None:
        self.scenario = scenario
        self.rules = rules
        self.sides = (Participant(LEFT, scenario, rules), Participant(RIGHT, scenario, rules))
        self.deadlines = (False, True) if rules.care.deadline else (False,)
        self.creates = {p.op: i for i, p in enumerate(scenario.processes) if isinstance(p, Create)}
        self.parts: dict[Any, Any] = {}
        self.ledgers: dict[Items, Ledger] = {}
        self.concluded: dict[Items, tuple[object, ...]] = {}
        self.drained: dict[object, properties.Drained] = {}

    def first(self) -> State:
        scenario = self.scenario
        pairs = set(scenario.pairs.values())
        missing = [{pair for side, pair in scenario.missing if side == x} for x in (LEFT, RIGHT)]
        rows = frozenset((op, Status.LIVE) for op in scenario.done)
        left, right = (Database(rows, frozenset(pairs - missing[x])) for x in (LEFT, RIGHT))
        messages = frozenset(("RECORD", x, op) for x in (LEFT, RIGHT) for op in scenario.done)
        history = frozenset((kind, op) for kind in ("started", "created") for op in scenario.done)
        return self.normal(State((left, right), NONE, messages, (START,) * len(scenario.processes), history))

    def successors(self, state: State) -> Iterator[Step]:
        """Every step that leads to another state."""
        for steps in (deliveries, restores, moves):
            for label, after in steps(self, state):
                if after != state and (after := self.normal(after)) != state:
                    yield Step(label, after)

    # -- normal form

    def normal(self, state: State) -> State:
        """``state`` with all that may be asked known, closed void rows dropped, and dead messages forgotten."""
        started = self.ledger(state).started
        facts = state.facts.union(*(self.sides[x].answers(state.databases[x], started) for x in (LEFT, RIGHT)))
        facts = self._taken(state, facts)
        databases = state.databases
        if self.rules.care.collection is Collection.AT_ONCE:
            databases = (self.sides[LEFT].collected(databases[LEFT]), self.sides[RIGHT].collected(databases[RIGHT]))
        messages = state.messages
        if forgotten := [m for m in messages if m[0] in FORGETTABLE and self._forgotten(state, facts, m)]:
            messages = messages.difference(forgotten)
        one = self._one
        return State(one(databases), one(facts), one(messages), one(state.processes), one(state.history), state.backup)

    def _one(self, part: Part) -> Part:
        """The one copy of an equal part: states share nearly all of theirs."""
        same: Part = self.parts.setdefault(part, part)
        return same

    def _taken(self, state: State, facts: Items) -> Items:
        """Facts about taken pairs: repeated if asked again, and of no use once their gateway has answered."""
        taken = frozenset(fact for fact in facts if fact[0] == "taken")
        if not taken:
            return facts
        again = (self.sides[x].repeated(state.databases[x], taken) for x in (LEFT, RIGHT))
        facts = facts.union(*again)
        return frozenset(f for f in facts if f[0] != "taken" or state.processes[self.creates[f[2]]] != END)

    def _forgotten(self, state: State, facts: Items, message: Item) -> bool:
        """Whether ``message`` can have no effect any more, now or later."""
        no_more_restores = self.scenario.restored is None or state.restored
        match message:
            case ("SETTLE", since, time, matched, inc):
                # Short of a restore the mark only grows: what does not apply now never will.
                right = state.databases[RIGHT]
                return self.scenario.restored is None and not self.sides[RIGHT].settle(right, since, time, matched, inc)
            case ("KILL", x, op, inc):
                if ("dead", 1 - x, op, inc) in facts:
                    return True  # the proof itself may deliver it
                killed = self.sides[x].message(state.databases[x], Message.KILL, op, inc)
                return no_more_restores and killed.answer is Answer.STALE
            case ("REJOIN", inc, *_):
                if state.restoring:
                    return False
                return self.rules.care.late_rejoins or inc < latest_rejoin(state)
            case _:
                return False

    # -- what several steps need

    def ledger(self, state: State) -> Ledger:
        known = self.ledgers.get(state.history)
        if known is None:
            known = self.ledgers[state.history] = ledger(state.history)
        return known

    def dead(self, state: State, x: int, op: Op) -> Iterator[Item]:
        """The facts that say that side ``x`` was dead for ``op``."""
        return (fact for fact in state.facts if fact[:3] == ("dead", x, op))

    def taken_of_creates(self, facts: tuple[Item, ...]) -> list[Item]:
        """``facts``, without what no gateway of the scenario would use."""
        return [fact for fact in facts if fact[0] != "taken" or fact[2] in self.creates]

    def conclusions(self, facts: Items) -> tuple[object, ...]:
        """All that a gateway may conclude from any part of ``facts`` about one operation."""
        if facts not in self.concluded:
            said: tuple[list[Evidence], list[Evidence]] = ([SILENT], [SILENT])
            for fact in sorted(facts):
                said[fact[1]].append(evidence(fact))
            create = self.rules.product.create
            verdicts = [create(left, right, expired=e) for left, right in product(*said) for e in self.deadlines]
            self.concluded[facts] = tuple(dict.fromkeys(map(_without_reasons, verdicts)))
        return self.concluded[facts]


def _without_reasons(verdict: object) -> object:
    """A refusal is a refusal here, whatever its reasons."""
    return gateway.Refused(None, None) if isinstance(verdict, gateway.Refused) else verdict


@dataclass(frozen=True)
class Outcome:
    """What exploring a scenario showed. ``trace`` leads to the violation, if there is one."""

    scenario: Scenario
    states: int
    steps: int
    violation: Violation | None = None
    trace: tuple[str, ...] = ()


class TooLarge(Exception):
    """A scenario has more states than were allowed for."""


def explore(
    scenario: Scenario,
    rules: Rules = PROTOCOL,
    *,
    ignore: frozenset[properties.Property] = frozenset(),
    states_max: int = STATES_MAX,
) -> Outcome:
    """Explore every interleaving of ``scenario``, up to the first violation of a property not in ``ignore``."""
    world = World(scenario, rules)
    first = world.first()
    parents: dict[State, State | None] = {first: None}
    queue = deque([first])
    steps = 0
    if violation := properties.check(world, first, ignore):
        return Outcome(scenario, 1, 0, violation)
    while queue:
        state = queue.popleft()
        for _, after in world.successors(state):
            steps += 1
            known = len(parents)
            parents.setdefault(after, state)
            if len(parents) == known:
                continue
            if violation := properties.check(world, after, ignore):
                return Outcome(scenario, len(parents), steps, violation, trace(world, parents, after))
            queue.append(after)
        if len(parents) > states_max:
            raise TooLarge(f"scenario {scenario.name!r} has more than {states_max} states")
    return Outcome(scenario, len(parents), steps)


def trace(world: World, parents: dict[State, State | None], last: State) -> tuple[str, ...]:
    """The labels of the steps that lead to ``last``."""
    labels = []
    while (before := parents[last]) is not None:
        labels.append(next(step.label for step in world.successors(before) if step.state == last))
        last = before
    return tuple(reversed(labels))
