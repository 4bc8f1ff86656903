"""Which troubles meet which message: the storms and hits of a plan, and luck."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tests.simulation.chance import Chance
from tests.simulation.plan import Fault, Hit, OpenCircuit, Storm, Trouble


class Letter(NamedTuple):
    """A message's name: the ``number``-th ``message`` from ``source`` to ``target``."""

    source: str
    target: str
    message: str
    number: int


class Weather:
    """What a plan's faults mean for a message that is sent now."""

    def __init__(self, faults: Iterable[Fault], chance: Chance) -> None:
        faults = tuple(faults)
        self._storms = [fault for fault in faults if isinstance(fault, Storm)]
        self._circuits = [fault for fault in faults if isinstance(fault, OpenCircuit)]
        self._planned: dict[Letter, list[Hit]] = {}
        for fault in faults:
            if isinstance(fault, Hit):
                letter = Letter(fault.source, fault.target, fault.message, fault.number)
                self._planned.setdefault(letter, []).append(fault)
        self._chance = chance
        self.hits: list[Hit] = []

    def troubles(self, letter: Letter, now_s: float) -> dict[Trouble, float]:
        """The troubles of a message, each with its amount in seconds; noted in ``hits``."""
        found = {hit.trouble: hit for hit in (*self._planned.get(letter, ()), *self._blown(letter, now_s))}
        self.hits += found.values()
        return {trouble: hit.amount_s for trouble, hit in found.items()}

    def open_s(self, host: str, target: str, now_s: float) -> float | None:
        """Seconds until ``host``'s circuit to ``target`` closes; None if it isn't open."""
        for circuit in self._circuits:
            if (circuit.host, circuit.target) == (host, target) and circuit.start_s <= now_s < circuit.end_s:
                return circuit.end_s - now_s
        return None

    def heal(self) -> None:
        self._storms.clear()
        self._circuits.clear()
        self._planned.clear()

    def _blown(self, letter: Letter, now_s: float) -> Iterator[Hit]:
        for storm in self._storms:
            if storm.start_s <= now_s < storm.end_s and _meets(storm, letter):
                # Of the storm's own name, so that other storms of the plan don't matter.
                words = (storm.trouble, repr(storm.start_s), *letter)
                if self._chance.of(*words) < storm.probability:
                    amount_s = storm.amount_s * self._chance.between(0.2, 1.2, "amount", *words)
                    yield Hit(storm.trouble, *letter, round(amount_s, 6))


def _meets(storm: Storm, letter: Letter) -> bool:
    return (
        storm.source in (None, letter.source)
        and storm.target in (None, letter.target)
        and storm.message in (None, letter.message)
    )
