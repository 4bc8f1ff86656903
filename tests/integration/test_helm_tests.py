"""The scripts that `helm test` runs in the cluster, against a local stack: what they find, and that nothing stays."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tally.chassis.clock import SystemClock
from tally.chassis.tokens import MintedTokens
from tally.local.ask import ask
from tally.local.keys import token_variables
from tally.local.stack import LocalStack, free_ports
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE

FILES = Path(__file__).parents[2] / "charts" / "tally" / "files" / "tests"
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    with (
        scratch_folder() as scratch,
        LocalStack(scratch / ".tally", programs=CORE, ports=free_ports(CORE), durable=False) as running,
    ):
        yield running


def begun(stack: LocalStack, script: str, folder: Path) -> "subprocess.Popen[str]":
    """The script as its pod has it: beside what all of them use, told where everything is."""
    for file in (FILES / script, *(FILES / "shared").glob("*.py")):
        (folder / file.name).write_text(file.read_text())
    tokens = MintedTokens(token_variables(stack.folder)["TALLY_TOKEN_KEY_FILE"], "operator", "tally", SystemClock())
    (folder / "gateway").write_text(tokens("gateway"))
    told = {"TOKEN_FOLDER": str(folder), "GATEWAY_ADMIN_HOST": "127.0.0.1"}
    for program in CORE:
        here = stack.places[program.name]
        name = program.name.upper()
        told |= {f"{name}_HOST": here.host, f"{name}_PORT": str(here.port), f"{name}_ADMIN_PORT": str(here.admin_port)}
    return subprocess.Popen(
        [sys.executable, folder / script],
        env={**os.environ, **told, "PYTHONPATH": str(FILES.parents[3])},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left(stack: LocalStack) -> list[str]:
    """What is there."""
    found = []
    for service, path in (("author", "/author"), ("conference", "/conference"), ("conference", "/event")):
        body = ask("GET", f"{stack.places[service].url}{path}").body
        found += [item["id"] for item in body["items"]]
    return found


@pytest.mark.parametrize("script", ["walkthrough.py", "service_down.py"])
def test_a_test_finds_a_release_working_and_leaves_nothing_behind(
    stack: LocalStack, script: str, tmp_path: Path
) -> None:
    with begun(stack, script, tmp_path) as process:
        said = process.communicate(timeout=90)[0]
    assert process.returncode == 0, said
    assert left(stack) == []


def test_a_test_that_is_told_to_stop_gives_the_service_back_and_leaves_nothing_behind(
    stack: LocalStack, tmp_path: Path
) -> None:
    with begun(stack, "service_down.py", tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "a create is refused" in line:
                process.send_signal(signal.SIGTERM)
                break
        said = process.communicate(timeout=90)[0]
    assert process.returncode == 1 and "told to stop" in said, said
    assert left(stack) == []
    headers = {"Authorization": f"Bearer {(tmp_path / 'gateway').read_text()}"}
    answer = ask("GET", f"{stack.places['gateway'].admin_url}/admin/breakers", headers=headers)
    assert not [one for one in answer.body["items"] if one["breaker"]["state"].startswith("forced")], answer.body
