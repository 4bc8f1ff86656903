"""Explore: ``python -m tests.model`` runs all that ends, and fails if anything is not as it must be."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from .ablations import BY_NAME, Ablation
from .explorer import Outcome, TooLarge, explore
from .report import anomalies
from .rules import DEADLINE, LATE_REJOINS, LAZY, PROTOCOL, Rules
from .scenarios import LONG, SCENARIOS, VAST, Scenario

WITHOUT_RESTORE = tuple(scenario for scenario in SCENARIOS if scenario.restored is None)
WITH_RESTORE = tuple(scenario for scenario in SCENARIOS if scenario.restored is not None)
#: With void rows that stay, these have a million states.
LARGE = tuple(scenario for scenario in WITH_RESTORE if scenario.word in {"16", "16b"})

#: What is explored under which rules, by the name that --part takes.
PARTS: dict[str, tuple[str, Rules, Sequence[Scenario]]] = {
    "protocol": ("the protocol", PROTOCOL, SCENARIOS),
    "deadline": ("the protocol, gateways at their deadline any time", DEADLINE, WITHOUT_RESTORE),
    "lazy": ("the protocol, void rows kept as long as they like", LAZY, [s for s in WITH_RESTORE if s not in LARGE]),
    "late-rejoins": ("the protocol, REJOIN as late as any message", LATE_REJOINS, WITH_RESTORE),
    "long": ("the protocol, long scenarios", PROTOCOL, LONG),
    "long-lazy": ("the protocol, void rows kept, long scenarios", LAZY, LARGE),
    "vast": ("the protocol, as much of the vast scenarios as fits", PROTOCOL, VAST),
}


def main(arguments: Sequence[str] | None = None) -> int:
    asked = _arguments(arguments)
    gc.disable()  # millions of tuples and no cycles
    if asked.traces is not None:
        return write_traces(asked.traces)
    if asked.ablate is not None:
        return 0 if show(BY_NAME[asked.ablate]) else 1
    parts = [asked.part] if asked.part else [*(part for part in PARTS if part != "vast"), "ablations"]
    held = []
    for part in parts:
        if part in PARTS:
            title, rules, scenarios = PARTS[part]
            held.append(hold(title, rules, [s for s in scenarios if asked.scenario in (None, s.word)], asked.jobs))
    if "ablations" in parts and asked.scenario is None:
        held.append(miss(BY_NAME.values()))
    return 0 if all(held) else 1


def hold(title: str, rules: Rules, scenarios: Sequence[Scenario], jobs: int) -> bool:
    """Explore ``scenarios``; whether all properties hold."""
    if not scenarios:
        return True
    print(f"== {title}", flush=True)
    began, states, held = time.monotonic(), 0, True
    for outcome, seconds in explored(scenarios, rules, jobs):
        if isinstance(outcome, TooLarge):
            print(f"   {outcome}: no counter-example among those, and not all were seen", flush=True)
            continue
        states += outcome.states
        held = held and outcome.violation is None
        print(
            f"   {outcome.scenario.name:46} {outcome.states:9} states {outcome.steps:9} steps"
            f" {seconds:7.1f} s  {outcome.violation or 'holds'}",
            flush=True,
        )
        print_trace(outcome)
    print(f"   {states} states, {time.monotonic() - began:.0f} s", flush=True)
    return held


def explored(scenarios: Sequence[Scenario], rules: Rules, jobs: int) -> Iterator[tuple[Outcome | TooLarge, float]]:
    """The outcomes in the order of ``scenarios``, with the seconds each took, from up to ``jobs`` processes."""
    if jobs == 1:
        yield from (timed(scenario, rules) for scenario in scenarios)
        return
    with ProcessPoolExecutor(jobs, initializer=gc.disable) as pool:
        yield from pool.map(timed, scenarios, [rules] * len(scenarios))


def timed(scenario: Scenario, rules: Rules) -> tuple[Outcome | TooLarge, float]:
    began = time.monotonic()
    try:
        outcome: Outcome | TooLarge = explore(scenario, rules)
    except TooLarge as error:
        outcome = error
    return outcome, time.monotonic() - began


def miss(ablations: Iterable[Ablation]) -> bool:
    """Take each rule away; whether each is missed in the way it should be."""
    print("== each rule taken away", flush=True)
    missed = True
    for ablation in ablations:
        outcome = ablation.counter_example()
        as_expected = (
            outcome is not None and outcome.violation is not None and outcome.violation.property is ablation.breaks
        )
        missed = missed and as_expected
        found = f"{outcome.scenario.name}: {outcome.violation}" if outcome else "NO COUNTER-EXAMPLE"
        print(f"   {ablation.rule:16} {found}{'' if as_expected else f'  EXPECTED {ablation.breaks.name}'}", flush=True)
    return missed


def show(ablation: Ablation) -> bool:
    """Print the counter-example of one rule."""
    outcome = ablation.counter_example()
    print(f"{ablation.rule}: {ablation.purpose}\nwithout it: {ablation.without}")
    if outcome is None:
        print("no counter-example")
        return False
    print(f"scenario {outcome.scenario.name!r}, {outcome.states} states: {outcome.violation}")
    print_trace(outcome)
    return True


def print_trace(outcome: Outcome) -> None:
    for i, step in enumerate(outcome.trace, 1):
        print(f"      {i:2}. {step}")


def write_traces(path: Path) -> int:
    """Write the document of all counter-examples."""
    found = [(ablation, outcome) for ablation in BY_NAME.values() if (outcome := ablation.counter_example())]
    path.write_text(anomalies(found), encoding="utf-8")
    print(f"{len(found)} counter-examples written to {path}")
    return 0 if len(found) == len(BY_NAME) else 1


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("--part", choices=[*PARTS, "ablations"], help="one part only; the vast one takes an hour")
    parser.add_argument("--scenario", metavar="WORD", help="one scenario only, by the first word of its name")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that explore (default: 1)")
    parser.add_argument("--ablate", choices=BY_NAME, metavar="RULE", help=f"one of {', '.join(BY_NAME)}")
    parser.add_argument("--traces", type=Path, metavar="FILE", help="write all counter-examples as Markdown")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
