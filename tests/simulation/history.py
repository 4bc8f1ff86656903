"""What happened, in the order in which it happened: the record that a run is judged, compared and explained by.

An entry's index is its moment, a logical time without ties. ``digest`` is equal for equal histories, whatever the
process and its hash seed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID


class Property(StrEnum):
    """What must hold; see ``/tally/protocol`` for the reasons."""

    I1 = "I1: what was answered created or already exists until somebody ends it"
    I2 = "I2: what was refused is never readable"
    I3 = "I3: after one pass of the settler no half is alone, whatever arrives late"
    I4 = "I4: one operation per pair, and no more seats used than there are"
    I5 = "I5: confirmed once, only what existed; cancelled follows if it goes"
    I6 = "I6: a cancel is final, and ends nothing but its operation"
    I7 = "I7: nothing readable vanishes unless somebody ends it, and nothing else is ever shown"
    DEAD = "dead is for ever, and nothing is born in a closed epoch"
    MARKS = "marks: right.settled <= left.closed <= right.closed, and none goes back"
    TRUE = "an answer was true at some moment while its client waited"
    TIME = "every answer comes by its deadline"
    LIVE = "after the faults everybody gets a definite answer, and the settlers finish"
    CLEAN = "no exception escapes, and no task is left behind"


class Violation(NamedTuple):
    property: Property
    what: str

    def __str__(self) -> str:
        return f"{self.property.value}\n    but {self.what}"


class Entry(NamedTuple):
    time_s: float
    who: str
    what: str
    details: tuple[Any, ...]


@dataclass
class History:
    loop: asyncio.AbstractEventLoop
    entries: list[Entry] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    violation: Violation | None = None
    names: dict[UUID, str] = field(default_factory=dict)

    def note(self, who: str, what: str, *details: Any) -> int:
        """Record an entry; returns its moment."""
        self.entries.append(Entry(round(self.loop.time(), 6), who, what, details))
        return len(self.entries) - 1

    @property
    def now(self) -> int:
        """The moment of the last entry."""
        return len(self.entries) - 1

    def count(self, what: str, by: int = 1) -> None:
        self.counts[what] += by

    def violate(self, property: Property, what: str) -> None:
        """Something that must hold doesn't: the first one is kept, and the run stops."""
        if self.violation is None:
            self.violation = Violation(property, self.told(what))
            self.note("VIOLATION", property.name, what)
            self.loop.stop()

    def call(self, id: UUID, name: str) -> None:
        """Give ``id`` a name that people can read."""
        self.names.setdefault(id, name)

    def told(self, text: str) -> str:
        """``text`` with names in the place of ids."""
        for id, name in self.names.items():
            text = text.replace(repr(id), name).replace(str(id), name)
        return text

    @property
    def digest(self) -> str:
        text = "\n".join(map(repr, self.entries)) + repr(sorted(self.counts.items()))
        return sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        lines = [
            f"{entry.time_s:9.3f}  {entry.who:<12} {entry.what} {' '.join(map(str, entry.details))}".rstrip()
            for entry in self.entries
        ]
        return self.told("\n".join(lines))
