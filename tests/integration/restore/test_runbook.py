"""docs/operations/restore.md, executed: every command in it, in its order."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from tally.local.control import Control
from tally.local.stack import LocalStack
from tests.integration.restore.drill import Drill

RUNBOOK = Path(__file__).parents[3] / "docs" / "operations" / "restore.md"
SECTIONS = ["The commands", "Back up", "Restore", "Start", "Look at the report", "Clean up", "How it notices"]


def test_the_runbook_restores_a_database(stack: LocalStack, folder: Path) -> None:
    commands = _commands()
    assert list(commands) == SECTIONS
    drill = Drill(stack, seed=2)
    drill.prepare(authors=6, events=4)
    drill.settled()
    with Control(stack):
        _run(commands["Back up"], stack, folder)
        drill.work(48)
        drill.settled()
        _run(commands["Restore"], stack, folder)
        _run(commands["Start"], stack, folder)
        said = _run(commands["Look at the report"], stack, folder)
        assert "Restored from a backup: it lived at" in said
        assert "entities came back from the stream" in said
        drill.stage.recovered()
        assert drill.differences() == []
        _run(commands["Clean up"], stack, folder)
        _run(commands["How it notices"], stack, folder)
    stack.wait_ready("author")
    drill.stage.recovered()
    assert drill.differences() == []


def _commands() -> dict[str, str]:
    """The shell blocks, by the heading that they stand under."""
    found: dict[str, str] = {}
    for section in re.split(r"^#+ ", RUNBOOK.read_text(), flags=re.MULTILINE)[1:]:
        blocks = re.findall(r"^```sh\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
        if blocks:
            found[section.partition("\n")[0]] = "".join(blocks)
    return found


def _run(commands: str, stack: LocalStack, folder: Path) -> str:
    """As somebody would type them, who has the local stack running elsewhere."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", _commands()["The commands"] + commands],
        cwd=folder,
        env={**os.environ, "PATH": path, "TALLY_LOCAL_FOLDER": str(stack.folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{commands}\n{done.stdout}"
    return done.stdout
