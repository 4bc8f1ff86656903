"""What this room may import. Layers are import-linter's to check; these two rules are too fine for it."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import tally.resilience

FILES = sorted(Path(tally.resilience.__path__[0]).glob("*.py"))
AWAITING = {"bulkhead.py", "hedge.py", "policy.py"}


def imported(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_only_the_standard_library_msgspec_and_in_one_file_aiobreaker(file: Path) -> None:
    for name in imported(file):
        top = name.partition(".")[0]
        allowed = top in sys.stdlib_module_names or top == "msgspec" or name.startswith("tally.resilience.")
        assert allowed or (top == "aiobreaker" and file.name == "circuit.py"), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_clock_and_randomness_are_arguments(file: Path) -> None:
    assert not imported(file) & {"time", "random", "datetime", "secrets", "uuid"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_decisions_are_pure(file: Path) -> None:
    assert ("asyncio" in imported(file)) == (file.name in AWAITING)
