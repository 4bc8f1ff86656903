"""A real NATS server for tests: each test that asks for it gets one of its own, without a stream yet, within 0.1 s.

async def test_something(broker):
    async with Stream(broker.url, "test", Signals("test")) as stream: ...
    broker.kill()       # SIGKILL; what it acknowledged is still there after broker.start()
"""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tally.local.ask import ask
from tally.local.processes import LOOPBACK, free_port
from tests.support.folders import scratch_folder

_START_S = 15.0
_STOP_S = 10.0
# Any; the tests' ports come from one range.
_MONITORING_OFFSET = 1000


class Broker:
    """One nats-server with JetStream on `folder`. Starting it again gives the same address and the same data."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = free_port(beside=_MONITORING_OFFSET)
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        return f"nats://{LOOPBACK}:{self._port}"

    @property
    def monitoring_url(self) -> str:
        return f"http://{LOOPBACK}:{self._port + _MONITORING_OFFSET}"

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start it, if it does not run, and return when it is ready."""
        if self._process is not None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(Path(sys.executable).parent / "nats-server"),
                    *("-a", LOOPBACK, "-p", str(self._port), "-m", str(self._port + _MONITORING_OFFSET)),
                    *("-js", "-sd", str(self._folder)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + _START_S
        while not self._ready():
            assert self._process.poll() is None, (self._folder / "nats.log").read_text()[-2000:]
            assert time.monotonic() < give_up, "nats-server did not become ready"
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop it in order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: it holds its connections and answers nobody."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        self._paused = True

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)
        self._paused = False

    def wipe(self) -> None:
        """SIGKILL, and its disk is gone."""
        self.kill()
        shutil.rmtree(self._folder)

    def copy(self) -> Path:
        """A copy of its disk, stopped meanwhile."""
        self.stop()
        copy = self._folder.with_name(f"{self._folder.name}-copy")
        shutil.copytree(self._folder, copy)
        self.start()
        return copy

    def put_back(self, copy: Path) -> None:
        """SIGKILL, and its disk is an older copy."""
        self.wipe()
        copy.rename(self._folder)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        if self._paused:
            process.send_signal(signal.SIGCONT)
            self._paused = False
        process.wait(_STOP_S)

    def _ready(self) -> bool:
        try:
            return ask("GET", f"{self.monitoring_url}/healthz", timeout_s=1).status == 200
        except (OSError, HTTPException):
            return False

    def __repr__(self) -> str:
        state = "paused" if self._paused else "running" if self.running else "stopped"
        return f"<Broker {self.url} {state}>"


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A nats-server that runs, with nothing in it."""
    with scratch_folder() as folder, Broker(folder) as running:
        yield running
