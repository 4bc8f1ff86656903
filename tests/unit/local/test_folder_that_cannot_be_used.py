"""A folder that cannot be used, for a reason that the user must mend: one sentence, and never a stack trace."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest


def _link_to_nowhere(folder: Path) -> None:
    folder.symlink_to(folder.with_name("nowhere"))


@pytest.mark.parametrize("command", ["run", "reset-data"])
@pytest.mark.parametrize(
    ("make", "name", "what"),
    [
        (_link_to_nowhere, "link", r".*/link cannot be used \(File exists\)"),
        (lambda _: None, "x" * 300, r".*/x+[a-z/]* cannot be used \(File name too long\)"),
        # (A limit on the size of files stands for a disk that is full.)
        (Path.mkdir, "full", r"a file cannot be written \(File too large\)"),
    ],
)
def test_it_is_said_in_one_sentence(
    tmp_path: Path, command: str, make: Callable[[Path], None], name: str, what: str
) -> None:
    folder = tmp_path / name
    make(folder)
    limit = "ulimit -f 0; " if name == "full" else ""
    result = subprocess.run(
        ["sh", "-c", f'{limit}exec "$0" -m tally.cli "$1"', sys.executable, command],
        env={**os.environ, "TALLY_LOCAL_FOLDER": str(folder), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(
        rf"tally: {what}: mend that, or choose another folder with TALLY_LOCAL_FOLDER=…\n", result.stderr
    ), result.stderr
