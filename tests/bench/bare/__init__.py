"""Tally without its resilience layer, to measure what the layer costs. See sitecustomize.py."""

import os
from collections.abc import Mapping
from pathlib import Path


def environment(plain: Mapping[str, str]) -> dict[str, str]:
    """The environment in which a service runs without deadlines' policies, breakers, bulkheads and shedding."""
    path = os.pathsep.join(filter(None, (str(Path(__file__).parent), plain.get("PYTHONPATH"))))
    return {**plain, "PYTHONPATH": path, "BENCH_BARE": "1"}
