"""Child processes of the benchmark: started with a context, always stopped at its end."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import msgspec

from tally.local.guardian import Guardian
from tests.bench import slots
from tests.bench.slots import Result, Slot

START_MAX_S = 30.0
STOP_MAX_S = 10.0
SERVICE_STAGE = 2  # The guardian ends services before databases.


@contextmanager
def python(*arguments: str, environment: Mapping[str, str], guardian: Guardian) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process with these arguments, stopped by SIGTERM; its errors go to our standard error."""
    process = start(arguments, environment, subprocess.DEVNULL)
    guardian.watch(process.pid, stage=SERVICE_STAGE)
    try:
        yield process
    finally:
        process.terminate()
        wait(process)
        guardian.forget(process.pid)


@contextmanager
def load_process(*arguments: str, environment: Mapping[str, str]) -> "Iterator[LoadProcess]":
    """A process that runs slots, which ends when its standard input does: also if we are killed."""
    process = start(arguments, environment, subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    try:
        yield LoadProcess(process)
    finally:
        with suppress(OSError):
            process.stdin.close()
        wait(process)
        process.stdout.close()


def start(arguments: tuple[str, ...], environment: Mapping[str, str], pipe: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=pipe,
        stdout=pipe,
        env=environment,
        start_new_session=True,  # Ctrl-C is for the harness, which stops its children in order.
    )


def wait(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(STOP_MAX_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class LoadProcess:
    """The harness's side of a process that runs slots: see `slots.serve`."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self.pid = process.pid
        self._process, self._to, self._from = process, process.stdin, process.stdout

    def run(self, slot: Slot) -> Result:
        watchdog = threading.Timer(START_MAX_S + slot.seconds + 2 * slots.ANSWER_MAX_S, self._process.kill)
        watchdog.start()
        try:
            self._to.write(msgspec.json.encode(slot) + b"\n")
            self._to.flush()
            answer = self._from.readline()
        finally:
            watchdog.cancel()
        if not answer:
            raise RuntimeError(f"the load process ended in the middle of {slot}")
        return msgspec.json.decode(answer, type=Result)

    def at(self, port: int) -> Callable[[Slot], Result]:
        """What runs a slot against a server on this port."""
        return lambda slot: self.run(msgspec.structs.replace(slot, port=port))


def wait_for_port(port: int, process: subprocess.Popen[bytes]) -> None:
    """Return once the process accepts connections; uvicorn does so only after its start-up."""
    give_up = time.monotonic() + START_MAX_S
    while time.monotonic() < give_up:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode} before it was ready")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args!r} did not listen on port {port} within {START_MAX_S:.0f} s")
