"""The OpenAPI documents and the services agree: schemathesis runs against them, real processes and databases."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tally.chassis.clock import SystemClock
from tally.chassis.tokens import MintedTokens
from tally.local.keys import token_variables
from tally.local.stack import LocalStack

CONFIG = Path(__file__).with_name("schemathesis.toml")
SECONDS = 20


@pytest.mark.timeout(300)
@pytest.mark.parametrize("service", ["author", "conference", "gateway", "directory"])
def test_a_service_keeps_what_its_document_says(stack: LocalStack, service: str, tmp_path: Path) -> None:
    # What the document keeps for operators (the audit trail) is asked for by one.
    key = token_variables(stack.folder)["TALLY_TOKEN_KEY_FILE"]
    token = MintedTokens(key, "operator", "tally", SystemClock())(service)
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(CONFIG),
        "run",
        f"{stack.urls[service]}/openapi.json",
        f"--header=Authorization: Bearer {token}",
        "--checks=all",
        "--phases=examples,coverage,fuzzing",
        f"--max-time={SECONDS}",
        "--max-examples=30",
        "--request-timeout=10",
        "--suppress-health-check=all",
        "--seed=1",
        "--no-color",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
