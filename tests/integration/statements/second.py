"""One more process of a service, beside the stack's: same environment, other ports, ended with its context."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tally.chassis.settings import ADMIN_OFFSET
from tally.local.ask import not_ready
from tally.local.processes import free_port
from tally.local.services import Place, service
from tally.local.stack import LocalStack

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 15.0


@contextmanager
def second(stack: LocalStack, name: str) -> Iterator[Place]:
    """Where it listens; it is ready."""
    port = free_port(beside=ADMIN_OFFSET)
    here = Place("127.0.0.1", port, port + ADMIN_OFFSET)
    environment = {**stack.environment(name), "TALLY_PORT": str(port), "TALLY_ADMIN_PORT": str(here.admin_port)}
    log_file = Path(stack.log(name)).with_name(f"{name}-second.log")
    with log_file.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", f"services.{name}", "serve"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        _wait_ready(process, name, here)
        yield here
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(process: subprocess.Popen[bytes], name: str, here: Place) -> None:
    give_up_s = time.monotonic() + READY_TIMEOUT_S
    while (reason := not_ready(service(name, here.port, stage=1), here)) is not None:
        assert process.poll() is None, f"the second {name} process ended with status {process.returncode}"
        assert time.monotonic() < give_up_s, reason
        time.sleep(0.05)
