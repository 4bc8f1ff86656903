"""`python -m tests.chaos.cluster`: one run from start to verdict. `make chaos` is this.

    python -m tests.chaos.cluster --seconds 300 --faults "author-slow dns-down" --seed 7
    python -m tests.chaos.cluster                       long enough for each fault to have its turn
    python -m tests.chaos.cluster --planted             a run with a bug in it, which the checker must find
    python -m tests.chaos.cluster --report results/chaos-cluster-….jsonl      the report of a recorded run, again

Exit code 0 if every invariant holds (with --planted: if the bug is found), 1 if not, 2 if not all could be decided.
History and report stay under results/, and with --keep the report's figures in docs/chaos.md.
"""

import argparse
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import structlog

from tests.chaos.check import exit_code
from tests.chaos.checker import check
from tests.chaos.cluster.page import as_html, as_markdown, blocks
from tests.chaos.cluster.place import NotReady, Place
from tests.chaos.cluster.planted import CAUGHT_BY
from tests.chaos.cluster.run import PLANTED, Plan, run
from tests.chaos.history import NotAHistory, read
from tests.chaos.verdict import Verdict, described
from tests.e2e.cluster import ROOT, CommandFailed
from tests.e2e.faults import Fault

KEPT = ROOT / "docs" / "chaos.md"
EACH_ONCE_S, PLANTED_S = 720.0, 60.0
"""Two cores begin 21 faults in 570 s, and there are 23; the planted bug shows within half a minute."""
BEGIN, END = "<!-- chaos:begin -->", "<!-- chaos:end -->"

log = structlog.get_logger()


def main(arguments: Sequence[str] | None = None) -> int:
    chosen = _chosen(arguments)
    try:
        path = chosen.report or _run(chosen)
        return _reported(path, keep=chosen.keep)
    except (CommandFailed, NotReady, NotAHistory) as error:
        print(f"chaos: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("chaos: interrupted; what was broken is mended", file=sys.stderr)
        return 130


def _run(chosen: argparse.Namespace) -> Path:
    seed = random.SystemRandom().randrange(1_000_000) if chosen.seed is None else chosen.seed
    names = chosen.faults.replace(",", " ").split()
    # What is out of reach an honest gateway leaves to the settler, too: the bug alone shows without faults.
    faults = () if chosen.planted and not names else _faults(names)
    seconds = chosen.seconds or (PLANTED_S if chosen.planted else EACH_ONCE_S)
    plan = Plan(seed, seconds, chosen.clients, faults, chosen.results.absolute(), chosen.planted)
    log.info("chaos", scenario=plan.scenario, seconds=seconds, seed=seed, faults=len(faults))
    return run(plan, Place.of_environment())


def _faults(names: Sequence[str]) -> tuple[Fault, ...]:
    """Those that are named; all of k8s/faults if none is."""
    there = {fault.name: fault for fault in Fault.all()}
    if unknown := set(names) - there.keys():
        raise CommandFailed(f"k8s/faults has no {', '.join(sorted(unknown))}; it has {', '.join(there)}.")
    return tuple(there[name] for name in names or there)


def _reported(path: Path, *, keep: bool) -> int:
    history = read(path)
    verdicts = check(history)
    page = blocks(history, verdicts, {fault.name: fault.breaks for fault in Fault.all()})

    def beside(file: Path, address: str) -> str:
        def picture(svg: str) -> str:
            file.write_text(svg)
            return address

        return as_markdown(page, picture)

    path.with_suffix(".md").write_text(beside(path.with_suffix(".svg"), path.with_suffix(".svg").name))
    path.with_suffix(".html").write_text(as_html("Tally under chaos", page))
    if keep:
        KEPT.write_text(_between(KEPT.read_text(), beside(KEPT.with_suffix(".svg"), "chaos.svg")))
    print(described(verdicts))
    print(f"report: {path.with_suffix('.html')}\nhistory: {path}")
    return _found(verdicts) if history.header.scenario == PLANTED else exit_code(verdicts)


def _found(verdicts: Sequence[Verdict]) -> int:
    """A run with a bug in it is good if the checker found it."""
    found = any(verdict.violations and verdict.name == CAUGHT_BY for verdict in verdicts)
    print(f"the planted bug was {'' if found else 'not '}found by {CAUGHT_BY}")
    return 0 if found else 1


def _between(text: str, figures: str) -> str:
    before, _, rest = text.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{figures}\n{END}{rest.partition(END)[2]}"


def _chosen(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.cluster", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seconds", type=float, default=None, help="so long faults are begun")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--seed", type=int, default=None, help="any number; without one, a random one")
    parser.add_argument("--faults", default="", help="files of k8s/faults; all without it (none with --planted)")
    parser.add_argument("--planted", action="store_true", help="with a bug that the checker must find")
    parser.add_argument("--keep", action="store_true", help="write the figures to docs/chaos.md")
    parser.add_argument("--report", type=Path, default=None, help="of a recorded history; nothing is run")
    parser.add_argument("--results", type=Path, default=Path("results"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
