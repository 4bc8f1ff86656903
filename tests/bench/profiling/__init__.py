"""`--profile`: where the time of each process goes. See sitecustomize.py."""

import os
import pstats
from collections.abc import Mapping
from pathlib import Path

FUNCTIONS_MAX = 25


def environment(folder: Path, plain: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a Python process leaves its profile in the folder."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), plain.get("PYTHONPATH"))))
    return {**plain, "PYTHONPATH": path, "BENCH_PROFILE_FOLDER": str(folder.absolute())}


def show(folder: Path) -> None:
    """The functions that took the most time themselves, process by process, on standard output."""
    for path in sorted(folder.glob("*.prof")):
        if "-migrate-" in path.name:
            continue
        print(f"\n{path}")
        pstats.Stats(str(path)).sort_stats("tottime").print_stats(FUNCTIONS_MAX)
