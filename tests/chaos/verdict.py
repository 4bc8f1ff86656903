"""A verdict on one invariant, and how an invariant is declared.

Assumes that an invariant is a generator of counter-examples that counts what it looked at: one that had nothing to look
at says so by `checked` 0, and a run that ended before its last look leaves those about the end undecided.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from tests.chaos.history import History
from tests.chaos.lives import Life, Lives

EXAMPLES_MAX = 10


@dataclass(slots=True)
class Verdict:
    """Of one invariant. `decided` is false if the history lacks what it needs."""

    name: str
    claim: str
    checked: int = 0
    violations: list[str] = field(default_factory=list)
    decided: bool = True

    @property
    def word(self) -> str:
        if self.violations:
            return "VIOLATED"
        return "holds" if self.decided else "undecided"

    def __str__(self) -> str:
        return f"{self.word:<9} {self.name}: {self.claim} ({self.checked} checked)"


Found = Iterator[str]
"""Counter-examples."""

Rule = Callable[[Lives, Verdict], Found]

INVARIANTS: list[Callable[[Lives], Verdict]] = []
"""All that were declared, in the order of their declaration."""


def invariant(claim: str, *, at_end: bool = False) -> Callable[[Rule], Rule]:
    """Declares a generator of counter-examples as an invariant named after it; `at_end` if it needs the last look."""

    def declare(rule: Rule) -> Rule:
        def judge(lives: Lives) -> Verdict:
            verdict = Verdict(rule.__name__.replace("_", "-"), claim, decided=not at_end or _observed(lives.history))
            if verdict.decided:
                verdict.violations = list(rule(lives, verdict))
            return verdict

        INVARIANTS.append(judge)
        return rule

    return declare


def _observed(history: History) -> bool:
    return set(history.cast.owners) <= history.databases.keys() and bool(history.settlements)


def proof(life: Life) -> str:
    """What a life's certain interval rests on."""
    first = min(life.sights, key=lambda sight: sight.to_ns)
    last = max(life.sights, key=lambda sight: sight.from_ns)
    return f"first seen by {first!r}, last by {last!r}"


def described(verdicts: Iterable[Verdict]) -> str:
    """The verdicts, each with its counter-examples."""
    lines: list[str] = []
    for verdict in verdicts:
        lines.append(str(verdict))
        lines += [f"          - {violation}" for violation in verdict.violations[:EXAMPLES_MAX]]
        if len(verdict.violations) > EXAMPLES_MAX:
            lines.append(f"          - and {len(verdict.violations) - EXAMPLES_MAX} more")
    return "\n".join(lines)
