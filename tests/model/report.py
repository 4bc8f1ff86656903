"""The counter-examples as prose: ``docs/anomalies.md``, one section per rule, the same text on every run."""

from __future__ import annotations

from collections.abc import Iterable

from .ablations import Ablation
from .explorer import Outcome
from .properties import Property

_INTRODUCTION = """\
# Anomalies: what each rule of the protocol prevents

Each section takes one rule of the relationship protocol away and shows the shortest way to something that must
not happen. They are found by the explorer in `tests/model`, which drives the functions of `tally/protocol`
through every interleaving of a small scenario; with all rules in place, no scenario has any. An operation is a
number, which is also its time; *left* is the author service, *right* the conference service.

This file is written by `python -m tests.model --traces docs/anomalies.md`. To see one: `python -m tests.model
--ablate RULE`.

What must hold:

"""


def anomalies(found: Iterable[tuple[Ablation, Outcome]]) -> str:
    """The whole document."""
    sections = [section(ablation, outcome) for ablation, outcome in found]
    return _INTRODUCTION + "".join(f"- **{p.name}**{p.value[len(p.name) :]}\n" for p in Property) + "".join(sections)


def section(ablation: Ablation, outcome: Outcome) -> str:
    """One rule: what it is for, what happens without it."""
    assert outcome.violation is not None
    steps = "".join(f"{i}. {step}\n" for i, step in enumerate(outcome.trace, 1))
    what = outcome.violation.what
    return (
        f"\n## `{ablation.rule}`\n\n{ablation.purpose}\n\n"
        f"*Without it:* {ablation.without} Scenario “{outcome.scenario.name}”:\n\n{steps}\n"
        f"**{outcome.violation.property.name} is broken:** {what}.\n"
    )
