"""Child: one process that is kept running.

A thread of its own starts it, passes on what it prints line by line, collects it, and starts it again if it died and
nobody asked for that. The process leads a session of its own: a Ctrl-C at the terminal reaches us only, and we decide
the order in which things stop.
"""

import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from tally.local.cluster import make_folder
from tally.local.guardian import Guardian

BACKOFF_S = (0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
# Whoever ran this long before it died is not in a crash loop.
STEADY_S = 30.0
# How long a killed process may take to be gone; longer means that it hangs in the kernel, and we go on without it.
KILL_TIMEOUT_S = 10.0
LOG_MAX_BYTES = 64 * 1024 * 1024

OnLine = Callable[[str, bytes], None]
OnEvent = Callable[[str, str], None]


class Child:
    """`on_line(name, line)` gets what it prints, `on_event(name, sentence)` what happens to it; both from its
    thread.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        stage: int,
        log: Path,
        guardian: Guardian,
        on_line: OnLine,
        on_event: OnEvent,
    ) -> None:
        self.name = name
        self.command = list(command)
        self.environment = dict(environment)
        self.stage = stage
        self.supervised = False
        """Whether it is started again when it dies."""
        self.restarts = 0
        self._log = Log(log)
        self._guardian = guardian
        self._on_line, self._on_event = on_line, on_event
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._leave = threading.Event()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Child {self.name} {f'running as {self.pid}' if self.pid else 'not running'}>"

    @property
    def pid(self) -> int | None:
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def ended(self) -> str | None:
        """How it ended, in words; None while it runs."""
        process = self._process
        code = None if process is None else process.poll()
        return None if code is None else in_words(code)

    def last_lines(self) -> list[str]:
        return [line.decode(errors="replace").rstrip() for line in self._log.last]

    def start(self) -> None:
        """Start it; nothing happens if it runs, or is about to be started again."""
        if self._thread is not None:
            if self.ended and not self._comes_back:
                self._thread.join(KILL_TIMEOUT_S)  # which still passes on its last words
            if self._thread.is_alive():
                return
        self._leave = threading.Event()
        self._spawn()
        self._thread = threading.Thread(target=self._keep, name=f"keep-{self.name}", daemon=True)
        self._thread.start()

    def ask_to_stop(self) -> None:
        """SIGTERM; it is not started again."""
        self._leave.set()
        self.send(signal.SIGTERM)
        self.send(signal.SIGCONT)

    def stop(self, grace_s: float) -> bool:
        """Stop it, by force after `grace_s`: whether it stopped by itself."""
        self.ask_to_stop()
        thread = self._thread
        if thread is None:
            return True
        thread.join(grace_s)
        if by_itself := not thread.is_alive():
            return by_itself
        self.send(signal.SIGKILL)
        thread.join(KILL_TIMEOUT_S)
        return False

    def kill(self) -> None:
        """SIGKILL; it is not started again."""
        self._leave.set()
        self.send(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """A signal, from which a supervised child comes back if it dies of it."""
        with self._lock:
            if self._process is not None:
                self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait until the process that runs now has ended: whether it did."""
        process = self._process
        try:
            return process is None or process.wait(timeout_s) is not None
        except subprocess.TimeoutExpired:
            return False

    # The thread

    @property
    def _comes_back(self) -> bool:
        return self.supervised and not self._leave.is_set()

    def _spawn(self) -> bool:
        """Whether it was started: not after it was asked to stop, which may happen at any moment."""
        with self._lock:
            if self._leave.is_set():
                return False
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            self._guardian.watch(self._process.pid, stage=self.stage)
            return True

    def _keep(self) -> None:
        failures = 0
        running = True
        while running:
            began = time.monotonic()
            ended = in_words(self._follow())
            if not self._comes_back:
                return
            failures = 0 if time.monotonic() - began > STEADY_S else failures
            delay_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
            failures += 1
            running = self._start_again(ended, delay_s)

    def _follow(self) -> int:
        """Pass on what the process prints until it ends: its exit code."""
        process = self._process
        assert process is not None
        assert process.stdout is not None
        self._pass_on(process.stdout)
        code = process.wait()
        self._guardian.forget(process.pid)
        return code

    def _start_again(self, ended: str, delay_s: float) -> bool:
        self._on_event(self.name, f"died ({ended}); starting it again in {delay_s:g} s")
        if self._leave.wait(delay_s):
            return False
        self.restarts += 1
        try:
            return self._spawn()
        except OSError as error:
            self._on_event(self.name, f"cannot be started again: {error}")
            return False

    def _pass_on(self, output: IO[bytes]) -> None:
        told = False
        with output, self._log:
            for line in output:
                try:
                    self._log.write(line)
                except OSError as error:  # a full disk, say: the process goes on, and we go on reading
                    if not told:
                        self._on_event(self.name, f"its log lacks lines: {error.strerror}")
                    told = True
                self._on_line(self.name, line)


class Log:
    """A file with what a child printed. At `LOG_MAX_BYTES` it becomes the `.1` beside it, so two of them is all
    there is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: deque[bytes] = deque(maxlen=20)
        self._file: IO[bytes] | None = None
        self._bytes = 0

    def __enter__(self) -> None:
        with suppress(OSError):  # the next line tries again, and says what it is
            self._open()

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, line: bytes) -> None:
        """OSError if the file cannot have it; then it is in `last` only."""
        self.last.append(line)
        file = self._file or self._open()
        if self._bytes > LOG_MAX_BYTES:
            self.__exit__()
            self.path.replace(self.path.with_name(f"{self.path.name}.1"))
            file = self._open()
        file.write(line)
        self._bytes += len(line)

    def _open(self) -> IO[bytes]:
        make_folder(self.path.parent)
        self._file = self.path.open("ab", buffering=0)
        self._bytes = self._file.tell()
        return self._file


def in_words(code: int) -> str:
    """An exit code as `subprocess` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
