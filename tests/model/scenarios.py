"""The scenarios: who does what, with which operations, and which times the settlers close.

An operation is its own time. Scenarios that take minutes are in ``LONG``, those of which nobody has seen the end in
``VAST``; all others in ``SCENARIOS``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .world import LEFT, RIGHT, Item, Op, Pair


@dataclass(frozen=True)
class Create:
    """A gateway that sends RECORD to both sides, once ``after`` is history."""

    name: str
    op: Op
    after: Item | None = None


@dataclass(frozen=True)
class HalfCreate:
    """A gateway that can reach ``side`` only: RECORD never leaves for the other one."""

    name: str
    op: Op
    side: int
    after: Item | None = None


@dataclass(frozen=True)
class Cancel:
    """A gateway that cancels ``op`` any time after it was started."""

    name: str
    op: Op


@dataclass(frozen=True)
class DeleteEntity:
    side: int
    pair: Pair
    after: Item | None = None


@dataclass(frozen=True)
class MakeEntity:
    side: int
    pair: Pair
    after: Item | None = None


@dataclass(frozen=True)
class Settler:
    """Runs for ever, may stop anywhere and start over."""

    name: str


Process = Create | HalfCreate | Cancel | DeleteEntity | MakeEntity | Settler


@dataclass(frozen=True)
class Scenario:
    """``times`` are what settlers may close; ``done`` operations are live on both sides at the start."""

    name: str
    processes: tuple[Process, ...]
    pairs: dict[Op, Pair] = field(hash=False)
    times: tuple[int, ...] = (9,)
    seats: int = 9
    missing: tuple[tuple[int, Pair], ...] = ()  # entities that don't exist at the start
    done: tuple[Op, ...] = ()
    restored: int | None = None  # the side that is restored, once, from a backup taken at any moment before
    rejoins_max: int = 1

    @property
    def word(self) -> str:
        """The first word of the name: what the scenario is asked for by."""
        return self.name.split()[0]


P = "p"
S1, S2 = Settler("settler-1"), Settler("settler-2")
ONE, BOTH = {1: P}, {1: P, 2: P}


def _create(n: int, op: Op, after: Item | None = None) -> Create:
    return Create(f"gateway-{n}", op, after)


def _half(op: Op, side: int) -> HalfCreate:
    return HalfCreate("gateway-1", op, side)


def _cancel(op: Op) -> Cancel:
    return Cancel("canceller", op)


G1, G2, G3 = _create(1, 1), _create(2, 2), _create(3, 3)
TWO_PAIRS = {1: "p1", 2: "p2"}

SCENARIOS = (
    Scenario("1 create", (G1, S1), ONE),
    Scenario("2 two creates", (G1, G2, S1), BOTH, times=(1, 2)),
    Scenario("3 create, cancel", (G1, _cancel(1), S1), ONE, times=(1, 3)),
    Scenario(
        "4 create, cancel, re-create", (G1, _cancel(1), _create(2, 3, ("cancelled", 1)), S1), {1: P, 3: P}, times=(2, 3)
    ),
    Scenario("4b create || cancel || create", (G1, _cancel(1), _create(2, 3), S1), {1: P, 3: P}, times=(2, 3)),
    Scenario("5 create, author deleted", (G1, DeleteEntity(LEFT, P), S1), ONE, times=(1, 9)),
    Scenario("6 create, event deleted", (G1, DeleteEntity(RIGHT, P), S1), ONE, times=(1, 9)),
    Scenario(
        "6b author deleted and made again, re-create",
        (
            G1,
            DeleteEntity(LEFT, P),
            MakeEntity(LEFT, P, ("entity-removed", P)),
            _create(2, 2, ("entity-made", P)),
            S1,
        ),
        BOTH,
        times=(2,),
    ),
    Scenario("7 one seat, two pairs", (G1, G2, S1), TWO_PAIRS, times=(1, 2), seats=1),
    Scenario("7b one seat, cancel, second pair", (G1, _cancel(1), G2, S1), TWO_PAIRS, seats=1),
    Scenario("8 refused at left, author appears", (G1, MakeEntity(LEFT, P), S1), ONE, missing=((LEFT, P),)),
    Scenario("8b refused at right, event appears", (G1, MakeEntity(RIGHT, P), S1), ONE, missing=((RIGHT, P),)),
    Scenario(
        "8c refused at both, both appear",
        (G1, MakeEntity(LEFT, P), MakeEntity(RIGHT, P), S1),
        ONE,
        missing=((LEFT, P), (RIGHT, P)),
    ),
    Scenario("9 two settlers, create", (G1, S1, S2), ONE, times=(1, 2)),
    Scenario("9b two settlers, two creates", (G1, G2, S1, S2), TWO_PAIRS, times=(1, 2)),
    Scenario("9c two settlers, create, cancel", (G1, _cancel(1), S1, S2), ONE, times=(1, 3)),
    Scenario(
        "10 skew: late gateway, wild times",
        (_create(1, 5), _create(2, 1, ("created", 5)), S1),
        {5: "p1", 1: "p2"},
        times=(1, 3, 5, 9),
    ),
    Scenario(
        "10b skew: same pair, old operation later",
        (_create(1, 5), _cancel(5), _create(2, 1, ("cancelled", 5)), S1),
        {5: P, 1: P},
        times=(1, 9),
    ),
    Scenario("10c skew: operation from the future", (_create(1, 8), G2, S1), {8: P, 2: P}, times=(2, 3)),
    Scenario("18 RECORD leaves for left only", (_half(1, LEFT), S1), ONE),
    Scenario("18b RECORD leaves for right only", (_half(1, RIGHT), S1), ONE),
    Scenario("18c left only, then a create", (_half(1, LEFT), _create(2, 2, ("failed", 1)), S1), BOTH, times=(1, 2)),
    Scenario("18d right only beside a create", (_half(1, RIGHT), G2, S1), BOTH, times=(2,)),
    Scenario("18e one seat, right only, second pair", (_half(1, RIGHT), G2, S1), TWO_PAIRS, seats=1),
    Scenario("18f two settlers, left only", (_half(1, LEFT), S1, S2), ONE, times=(1, 2)),
    Scenario("18g restore right, left only", (_half(1, LEFT), S1), ONE, restored=RIGHT, rejoins_max=2),
    Scenario("18h restore left, left only", (_half(1, LEFT), S1), ONE, restored=LEFT, rejoins_max=2),
    Scenario("18i restore left, right only", (_half(1, RIGHT), S1), ONE, restored=LEFT, rejoins_max=2),
    Scenario("18j restore right, right only", (_half(1, RIGHT), S1), ONE, restored=RIGHT, rejoins_max=2),
    Scenario("20 three creates, one pair", (G1, G2, G3, S1), {1: P, 2: P, 3: P}, times=(3,)),
    Scenario("20b two seats, three pairs", (G1, G2, G3, S1), {1: "p1", 2: "p2", 3: "p3"}, times=(3,), seats=2),
    Scenario("11 restore right, create", (G1, S1), ONE, restored=RIGHT, rejoins_max=2),
    Scenario("12 restore left, create", (G1, S1), ONE, restored=LEFT, rejoins_max=2),
    Scenario("13 restore right, cancel", (_cancel(1), S1), ONE, times=(3,), done=(1,), restored=RIGHT),
    Scenario("14 restore left, cancel", (_cancel(1), S1), ONE, times=(3,), done=(1,), restored=LEFT),
    Scenario("15 restore right, refusal", (G1, MakeEntity(RIGHT, P), S1), ONE, missing=((RIGHT, P),), restored=RIGHT),
    Scenario("15b restore left, refusal", (G1, MakeEntity(LEFT, P), S1), ONE, missing=((LEFT, P),), restored=LEFT),
    Scenario(
        "17 restore right, author deleted", (DeleteEntity(LEFT, P), S1), ONE, times=(1,), done=(1,), restored=RIGHT
    ),
    Scenario(
        "17b restore right, event deleted", (DeleteEntity(RIGHT, P), S1), ONE, times=(1,), done=(1,), restored=RIGHT
    ),
    Scenario("13b restore right, create, cancel", (G1, _cancel(1), S1), ONE, times=(3,), restored=RIGHT),
    Scenario("16 restore right, two creates", (G1, G2, S1), BOTH, times=(2,), restored=RIGHT),
    Scenario("16b restore left, two creates", (G1, G2, S1), BOTH, times=(2,), restored=LEFT),
    Scenario("21 restore right, two creates, no settler", (G1, G2), BOTH, restored=RIGHT),
)

LONG = (
    Scenario("19 restore right, two settlers, create", (G1, S1, S2), ONE, times=(1, 2), restored=RIGHT, rejoins_max=2),
    Scenario("19b restore left, two settlers, create", (G1, S1, S2), ONE, times=(1, 2), restored=LEFT, rejoins_max=2),
)

VAST = (
    Scenario(
        "19c restore right, two settlers, cancel", (_cancel(1), S1, S2), ONE, times=(1, 3), done=(1,), restored=RIGHT
    ),
)


def named(word: str) -> Scenario:
    """The scenario whose name starts with ``word``."""
    for scenario in SCENARIOS + LONG + VAST:
        if scenario.word == word:
            return scenario
    raise KeyError(f"there is no scenario {word!r}")
