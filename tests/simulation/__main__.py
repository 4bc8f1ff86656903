"""Run many seeds, or look at one.

    python -m tests.simulation --seeds 2000            seeds 0 to 1999; the first failure is shrunk and printed
    python -m tests.simulation --start 5000 --seeds 100 --jobs 2
    python -m tests.simulation --seed 17 -v            one seed, with its plan and its history

Exits with 1 if anything that must hold was broken.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from multiprocessing import Pool

from tests.simulation.report import counted, explain
from tests.simulation.world import plan_of, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=200, help="how many seeds (200)")
    parser.add_argument("--start", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--jobs", type=int, default=1, help="processes to use (1)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print plan and history")
    parser.add_argument("--no-shrink", action="store_true", help="don't shrink a failure")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, options.verbose, not options.no_shrink)
    return _many(range(options.start, options.start + options.seeds), options.jobs, not options.no_shrink)


def _one(seed: int, verbose: bool, shrink: bool) -> int:
    result = run(plan_of(seed))
    if verbose:
        print(result.plan, result.history, counted(result.history.counts), sep="\n\n")
    if result.violation is None:
        print(f"seed {seed}: nothing is wrong (history {result.history.digest[:16]})")
        return 0
    print(explain(result) if shrink else f"seed {seed}: {result.violation}")
    return 1


def _many(seeds: range, jobs: int, shrink: bool) -> int:
    counts: Counter[str] = Counter()
    failed = []
    started_s = time.monotonic()
    for i, (seed, wrong, counted_here) in enumerate(_results(seeds, jobs), 1):
        counts += counted_here
        if wrong is not None:
            failed.append(seed)
            print(f"seed {seed}: {wrong}", flush=True)
        if i % 100 == 0:
            rate = i / (time.monotonic() - started_s)
            print(f"{i} of {len(seeds)} seeds, {len(failed)} failed, {rate:.1f} a second", file=sys.stderr, flush=True)
    print(counted(counts))
    print(f"{len(seeds)} seeds from {seeds.start}, failed: {failed or 'none'}")
    if failed and shrink:
        print("", explain(run(plan_of(failed[0]))), sep="\n")
    return 1 if failed else 0


def _results(seeds: Iterable[int], jobs: int) -> Iterator[tuple[int, str | None, Counter[str]]]:
    if jobs == 1:
        yield from map(_result, seeds)
        return
    with Pool(jobs) as pool:
        yield from pool.imap(_result, seeds, chunksize=10)


def _result(seed: int) -> tuple[int, str | None, Counter[str]]:
    history = run(plan_of(seed)).history
    return seed, str(history.violation) if history.violation else None, history.counts


if __name__ == "__main__":
    sys.exit(main())
