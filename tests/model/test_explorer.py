"""No interleaving of any scenario breaks a property. What takes long is marked ``model``; ``make model`` runs all."""

from __future__ import annotations

import pytest

from . import properties
from .__main__ import PARTS, WITH_RESTORE, WITHOUT_RESTORE
from .explorer import TooLarge, World, explore
from .participants import Participant
from .rules import DEADLINE, LATE_REJOINS, LAZY, PROTOCOL, Rules
from .scenarios import LONG, SCENARIOS, Scenario, named
from .world import LEFT, RIGHT, Database, ledger

#: How many states each scenario has. A model that explores less would hold as well, so a change must be explained.
STATES = {
    "1": 137,
    "2": 11_708,
    "3": 8_669,
    "4": 38_429,
    "4b": 154_680,
    "5": 3_188,
    "6": 3_392,
    "6b": 7_114,
    "7": 7_744,
    "7b": 13_308,
    "8": 217,
    "8b": 211,
    "8c": 332,
    "9": 4_436,
    "9b": 59_043,
    "9c": 100_707,
    "10": 14_836,
    "10b": 21_686,
    "10c": 14_582,
    "18": 105,
    "18b": 115,
    "18c": 2_788,
    "18d": 1_457,
    "18e": 1_233,
    "18f": 3_239,
    "18g": 4_704,
    "18h": 2_689,
    "18i": 2_538,
    "18j": 4_194,
    "20": 49_271,
    "20b": 20_276,
    "11": 6_021,
    "12": 3_727,
    "13": 11_109,
    "14": 6_818,
    "15": 8_277,
    "15b": 5_504,
    "17": 2_114,
    "17b": 2_416,
    "13b": 61_435,
    "16": 145_004,
    "16b": 89_957,
    "21": 11_357,
}

#: Scenarios with up to so many states are explored on every test run, and 2: two gateways and one pair.
QUICK_MAX = 8_000
QUICK = [s for s in SCENARIOS if STATES[s.word] <= QUICK_MAX] + [named("2")]
SLOW = [s for s in SCENARIOS if s not in QUICK]


def name(scenario: Scenario) -> str:
    return scenario.name.replace(" ", "-")


def holds(scenario: Scenario, rules: Rules) -> int:
    """Explore, and return the number of states."""
    outcome = explore(scenario, rules)
    assert outcome.violation is None, "\n".join((str(outcome.violation), *outcome.trace))
    return outcome.states


@pytest.mark.parametrize("scenario", QUICK, ids=name)
def test_every_property_holds_in_every_interleaving(scenario: Scenario) -> None:
    assert holds(scenario, PROTOCOL) == STATES[scenario.word]


@pytest.mark.model
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", SLOW, ids=name)
def test_every_property_holds_in_every_interleaving_of_what_takes_long(scenario: Scenario) -> None:
    assert holds(scenario, PROTOCOL) == STATES[scenario.word]


@pytest.mark.model
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("scenario", LONG, ids=name)
def test_every_property_holds_with_two_settlers_during_a_restore(scenario: Scenario) -> None:
    holds(scenario, PROTOCOL)


@pytest.mark.parametrize("word", ["1", "8", "8b", "8c", "18", "18b", "18d", "18e"])
def test_short_of_a_restore_a_gateway_may_answer_on_one_proof(word: str) -> None:
    holds(named(word), DEADLINE)


@pytest.mark.model
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", WITHOUT_RESTORE, ids=name)
def test_short_of_a_restore_a_gateway_may_answer_on_one_proof_in_every_scenario(scenario: Scenario) -> None:
    holds(scenario, DEADLINE)


@pytest.mark.parametrize("word", ["18h", "18i", "17", "17b"])
def test_void_rows_may_stay_after_their_epoch_is_closed(word: str) -> None:
    holds(named(word), LAZY)


@pytest.mark.model
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", PARTS["lazy"][2], ids=name)
def test_void_rows_may_stay_after_their_epoch_is_closed_in_nearly_every_restore(scenario: Scenario) -> None:
    holds(scenario, LAZY)


@pytest.mark.parametrize("word", ["18h", "12", "17b"])
def test_a_rejoin_may_be_as_late_as_any_message_if_it_is_answered_once_and_in_order(word: str) -> None:
    holds(named(word), LATE_REJOINS)


@pytest.mark.model
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", WITH_RESTORE, ids=name)
def test_a_rejoin_may_be_as_late_as_any_message_in_every_restore(scenario: Scenario) -> None:
    holds(scenario, LATE_REJOINS)


# -- the explorer itself


def test_every_scenario_has_its_number_of_states_written_down() -> None:
    assert list(STATES) == [scenario.word for scenario in SCENARIOS]


def test_an_unknown_scenario_is_an_error() -> None:
    with pytest.raises(KeyError, match="there is no scenario '99'"):
        named("99")


def test_a_scenario_that_outgrows_its_bound_is_an_error_and_not_a_success() -> None:
    with pytest.raises(TooLarge, match="more than 50 states"):
        explore(named("1"), states_max=50)


def test_messages_are_never_taken_back_so_they_may_arrive_again() -> None:
    world = World(named("1"))
    state = world.first()
    while steps := [s for s in world.successors(state) if s.state.messages > state.messages]:
        state = steps[0].state
    kinds = {message[0] for message in state.messages}
    assert {"RECORD", "RESOLVE"} <= kinds
    for step in world.successors(state):
        kept = {m for m in step.state.messages if m[0] in {"RECORD", "RESOLVE"}}
        assert kept >= {m for m in state.messages if m[0] in {"RECORD", "RESOLVE"}}


def test_a_side_that_has_not_rejoined_says_nothing() -> None:
    side = Participant(RIGHT, named("11"), PROTOCOL)
    started = frozenset({1})
    assert side.answers(Database(closed=9), started)
    assert not side.answers(Database(closed=9, restoring=True), started)


def test_the_settler_that_runs_alone_leaves_no_lone_half() -> None:
    world = World(named("1"))
    first = world.first()
    left = world.sides[LEFT].record(first.databases[LEFT], 1).database
    lone = world.normal(first.after(databases={LEFT: left}, history=[("started", 1)]))
    assert left.live == {1}
    drained = properties.drain(world, lone)
    assert [database.live for database in drained.databases] == [frozenset(), frozenset()]


def test_a_history_is_told_by_kind() -> None:
    told = ledger(
        frozenset({("started", 1), ("created", 1), ("cancelled-event", 2), ("restored",), ("entity-made", "p")})
    )
    assert told.started == told.created == {1}
    assert told.cancelled_event == {2}
    assert not told.failed
