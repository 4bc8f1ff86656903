"""Ends what we started if we are killed.

A launcher that gets SIGKILL cannot stop its children. So it starts this file as a process of its own, tells it through
a pipe which processes to watch, and whatever happens to the launcher, the pipe closes: then everything still watched is
ended, the highest stage first. One mechanism for Linux and macOS, for our processes and for PostgreSQL, and it also
ends a process that was paused.

A process number cannot have been given to somebody else meanwhile: the launcher says "forget" as soon as it has
collected a process, and until then, or until its own death an instant ago, a dead child keeps its number.

This file is run as a script by an isolated interpreter and imports only the standard library.

    watch <pid> <stage> <first signal> <last signal>
    forget <pid>
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from threading import Lock
from typing import IO, NamedTuple

PATIENCE_S = 8.0


class Watched(NamedTuple):
    pid: int
    stage: int
    first: int
    last: int


class Guardian:
    """The launcher's end of the pipe. A lock file's descriptor in `keep` stays locked until the guardian is done
    too.
    """

    def __init__(self, *, keep: tuple[int, ...] = ()) -> None:
        self._lock = Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            pass_fds=keep,
            start_new_session=True,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def watch(self, pid: int, *, stage: int, first: int = signal.SIGTERM, last: int = signal.SIGKILL) -> None:
        self._tell(f"watch {pid} {stage} {int(first)} {int(last)}\n")

    def forget(self, pid: int) -> None:
        self._tell(f"forget {pid}\n")

    def dismiss(self) -> None:
        """Say goodbye; whatever is still watched is ended."""
        with self._lock, suppress(OSError):
            self._pipe.close()
        self._process.wait()

    @property
    def _pipe(self) -> IO[bytes]:
        assert self._process.stdin is not None
        return self._process.stdin

    def _tell(self, line: str) -> None:
        # Without a guardian we go on: it is a second net, and the ones it would have caught are stopped by ourselves.
        with self._lock, suppress(OSError, ValueError):
            self._pipe.write(line.encode())
            self._pipe.flush()


def end(group: list[Watched]) -> None:
    """Ask, wait, insist."""
    for one in group:
        _send(one.pid, one.first)
        _send(one.pid, signal.SIGCONT)
    give_up = time.monotonic() + PATIENCE_S
    while time.monotonic() < give_up and any(_send(one.pid, 0) for one in group):
        time.sleep(0.05)
    for one in group:
        _send(one.pid, one.last)


def _send(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except OSError:
        return False
    return True


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watched: dict[int, Watched] = {}
    for line in sys.stdin:
        match line.split():
            case ["watch", pid, stage, first, last]:
                watched[int(pid)] = Watched(int(pid), int(stage), int(first), int(last))
            case ["forget", pid]:
                watched.pop(int(pid), None)
    for stage in sorted({one.stage for one in watched.values()}, reverse=True):
        end([one for one in watched.values() if one.stage == stage])


if __name__ == "__main__":
    main()
