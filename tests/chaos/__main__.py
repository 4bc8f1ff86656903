"""`python -m tests.chaos`: one run from start to verdict, or several. `make chaos-local` is this.

`--scenario statements` runs all that is stated of resilience, one scenario after the other.

Exit code 0 if every invariant holds, 1 if one is violated, 2 if not all could be decided. The history, the services'
logs and the report stay under results/; `python -m tests.chaos.check` decides again from the history alone.
"""

import argparse
import asyncio
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tests.chaos.cast import ATTENDING, CASTS
from tests.chaos.check import exit_code
from tests.chaos.checker import check
from tests.chaos.history import read
from tests.chaos.nemesis import SCENARIOS, STATEMENTS
from tests.chaos.report import report
from tests.chaos.run import Plan, run

# Starting, healing, settling and looking, on a slow machine; a run that takes longer is broken.
OVERHEAD_S = 240.0

ALL_STATEMENTS = "statements"
INTERRUPTED = 130
_WORDS = {0: "holds", 1: "is VIOLATED", 2: "is undecided", INTERRUPTED: "was interrupted"}


def main(arguments: Sequence[str] | None = None) -> int:
    plan = _plan(arguments)
    if plan.scenario != ALL_STATEMENTS:
        return _run(plan)
    codes: dict[str, int] = {}
    for scenario in STATEMENTS:
        codes[scenario] = _run(replace(plan, scenario=scenario))
        if codes[scenario] == INTERRUPTED:
            break
    for scenario, code in codes.items():
        print(f"{scenario:12} {_WORDS[code]}")
    return max(codes.values())


def _run(plan: Plan) -> int:
    name = plan.cast.relationship.name
    print(
        f"chaos: {plan.scenario} of {name}s for {plan.seconds:g} s with {plan.clients} clients, seed {plan.seed}",
        flush=True,
    )
    try:
        path = asyncio.run(_bounded(plan))
    except KeyboardInterrupt:
        print(f"chaos: interrupted; what was recorded is in {plan.results}", file=sys.stderr)
        return INTERRUPTED
    history = read(path)
    verdicts = check(history)
    page = report(history, verdicts)
    path.with_suffix(".md").write_text(page)
    print(page)
    code = exit_code(verdicts)
    if code == 0:
        shutil.rmtree(path.with_name(f"{path.stem}-logs"), ignore_errors=True)
    print(f"history: {path}")
    return code


async def _bounded(plan: Plan) -> Path:
    async with asyncio.timeout(plan.seconds + OVERHEAD_S):
        return await run(plan)


def _plan(arguments: Sequence[str] | None) -> Plan:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--relationship", choices=sorted(CASTS), default=ATTENDING.relationship.name)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the load lasts")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seed", type=int, default=None, help="any number; without one, a random one")
    parser.add_argument("--scenario", choices=sorted([*SCENARIOS, ALL_STATEMENTS]), default="all")
    parser.add_argument("--authors", type=int, default=40)
    parser.add_argument("--events", type=int, default=12)
    parser.add_argument("--results", type=Path, default=Path("results"))
    chosen = parser.parse_args(arguments)
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    return Plan(
        CASTS[chosen.relationship],
        seed,
        chosen.scenario,
        chosen.seconds,
        chosen.clients,
        chosen.authors,
        chosen.events,
        chosen.results.absolute(),
    )


if __name__ == "__main__":
    sys.exit(main())
