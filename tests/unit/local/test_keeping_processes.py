"""Child, guardian, folder lock, and what the system says about processes and ports."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tally.local import child as children
from tally.local.child import Child, Log, in_words
from tally.local.failure import LocalError
from tally.local.guardian import Guardian
from tally.local.lock import FolderLock
from tally.local.processes import FREE_PORTS, alive, command_line, free_port, holder, is_taken

SLEEP = [sys.executable, "-c", "import time; time.sleep(600)"]
SLEEP_ALOUD = [sys.executable, "-c", "import time; print('a', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)",
]


def until(holds: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.01)


@pytest.fixture
def guardian() -> Iterator[Guardian]:
    guardian = Guardian()
    yield guardian
    guardian.dismiss()


class Kept:
    """A child, and what it said."""

    def __init__(
        self, command: list[str], folder: Path, guardian: Guardian, *, supervised: bool = True, line_s: float = 0.0
    ) -> None:
        """`line_s`: how long it takes to pass a line on."""
        self.lines: list[bytes] = []
        self.events: list[str] = []
        self.child = Child(
            "one",
            command,
            dict(os.environ),
            stage=1,
            log=folder / "one.log",
            guardian=guardian,
            on_line=lambda name, line: self._heard(line, line_s),
            on_event=lambda name, sentence: self.events.append(sentence),
        )
        self.child.supervised = supervised

    def _heard(self, line: bytes, line_s: float) -> None:
        self.lines.append(line)
        time.sleep(line_s)


# Child


def test_a_child_that_dies_is_started_again_later_each_time(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (0.01, 0.02, 0.03))
    kept = Kept([sys.executable, "-c", "print('hello'); raise SystemExit(7)"], tmp_path, guardian)
    kept.child.start()
    until(lambda: kept.child.restarts >= 4, "four restarts")
    kept.child.stop(5)
    assert kept.events[:4] == [
        f"died (exit code 7); starting it again in {delay} s" for delay in (0.01, 0.02, 0.03, 0.03)
    ]
    assert kept.lines[:2] == [b"hello\n", b"hello\n"]


def test_one_that_ran_steadily_is_started_again_at_once(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (0.01, 60.0))
    monkeypatch.setattr(children, "STEADY_S", 0.0)
    kept = Kept([sys.executable, "-c", "raise SystemExit(7)"], tmp_path, guardian)
    kept.child.start()
    until(lambda: kept.child.restarts >= 3, "three restarts")
    kept.child.stop(5)


def test_a_stop_during_the_back_off_starts_nothing(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (60.0,))
    kept = Kept([sys.executable, "-c", "raise SystemExit(7)"], tmp_path, guardian)
    kept.child.start()
    until(lambda: kept.events, "its death")
    assert kept.child.stop(5)
    assert kept.child.restarts == 0


def test_an_unsupervised_one_stays_dead_and_says_how_it_ended(tmp_path: Path, guardian: Guardian) -> None:
    kept = Kept(
        [sys.executable, "-c", "print('last words'); raise SystemExit(7)"], tmp_path, guardian, supervised=False
    )
    kept.child.start()
    until(lambda: kept.child.ended, "its end")
    assert kept.child.stop(5)
    assert (kept.child.ended, kept.child.pid, kept.events) == ("exit code 7", None, [])
    assert kept.child.last_lines() == ["last words"]
    assert (tmp_path / "one.log").read_text() == "last words\n"


@pytest.mark.parametrize("supervised", [False, True])
def test_one_that_was_killed_starts_also_while_its_last_words_are_passed_on(
    tmp_path: Path, guardian: Guardian, *, supervised: bool
) -> None:
    kept = Kept(SLEEP_ALOUD, tmp_path, guardian, supervised=supervised, line_s=0.5)
    kept.child.start()
    until(lambda: kept.lines, "its first line")
    killed = kept.child.pid
    kept.child.kill()
    until(lambda: kept.child.ended, "its end")
    kept.child.start()
    assert kept.child.pid not in (None, killed)
    kept.child.stop(5)


def test_a_deaf_one_is_killed_after_the_grace(tmp_path: Path, guardian: Guardian) -> None:
    kept = Kept(DEAF, tmp_path, guardian)
    kept.child.start()
    until(lambda: kept.lines, "its first line")
    assert not kept.child.stop(0.1)
    assert kept.child.ended == "SIGKILL"


def test_a_paused_one_can_be_stopped(tmp_path: Path, guardian: Guardian) -> None:
    kept = Kept(SLEEP, tmp_path, guardian)
    kept.child.start()
    kept.child.send(signal.SIGSTOP)
    assert kept.child.stop(10)


def test_a_log_has_one_predecessor_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_MAX_BYTES", 10)
    with (log := Log(tmp_path / "x.log")):
        for number in range(10):
            log.write(f"line {number}\n".encode())
    assert (tmp_path / "x.log.1").read_text() == "line 6\nline 7\n"
    assert (tmp_path / "x.log").read_text() == "line 8\nline 9\n"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_child_is_kept_and_heard_where_its_log_has_no_room(
    tmp_path: Path, guardian: Guardian, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "BACKOFF_S", (0.01,))
    (tmp_path / "one.log").symlink_to("/dev/full")
    kept = Kept([sys.executable, "-c", "print('hello'); print('again'); raise SystemExit(7)"], tmp_path, guardian)
    kept.child.start()
    until(lambda: kept.child.restarts >= 2, "two restarts")
    kept.child.stop(5)
    lacks = "its log lacks lines: No space left on device"
    assert kept.events[:4] == [lacks, "died (exit code 7); starting it again in 0.01 s"] * 2
    assert kept.lines[:3] == [b"hello\n", b"again\n", b"hello\n"]
    assert kept.child.last_lines()[:2] == ["hello", "again"]


def test_a_log_that_could_not_be_opened_is_opened_by_a_later_line(tmp_path: Path) -> None:
    (tmp_path / "x.log").mkdir()
    with (log := Log(tmp_path / "x.log")):
        with pytest.raises(IsADirectoryError):
            log.write(b"1\n")
        (tmp_path / "x.log").rmdir()
        log.write(b"2\n")
    assert (tmp_path / "x.log").read_text() == "2\n"


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit code 0"), (3, "exit code 3"), (-9, "SIGKILL"), (-100, "signal 100")]
)
def test_exit_codes_in_words(code: int, words: str) -> None:
    assert in_words(code) == words


# Guardian


def test_the_guardian_ends_what_is_watched_and_the_highest_stage_first() -> None:
    guardian = Guardian()
    low, high, forgotten = (subprocess.Popen(SLEEP) for _ in range(3))
    ended: list[str] = []

    def note(name: str, process: "subprocess.Popen[bytes]") -> None:
        process.wait()
        ended.append(name)

    threads = [threading.Thread(target=note, args=pair) for pair in (("low", low), ("high", high))]
    for thread in threads:
        thread.start()
    guardian.watch(low.pid, stage=0)
    guardian.watch(high.pid, stage=1)
    guardian.watch(forgotten.pid, stage=1)
    guardian.forget(forgotten.pid)
    high.send_signal(signal.SIGSTOP)
    guardian.dismiss()
    for thread in threads:
        thread.join(20)
    assert ended == ["high", "low"]
    assert forgotten.poll() is None
    forgotten.kill()
    forgotten.wait()


def test_a_guardian_that_died_does_not_disturb(guardian: Guardian) -> None:
    os.kill(guardian.pid, signal.SIGKILL)
    until(lambda: not alive(guardian.pid), "its end")
    guardian.watch(os.getpid(), stage=0)
    guardian.forget(os.getpid())


# Lock


def test_a_locked_folder_is_refused_with_the_holders_number(tmp_path: Path) -> None:
    with (
        FolderLock(tmp_path),
        pytest.raises(LocalError, match=rf"^Tally already runs from {tmp_path} \(process {os.getpid()}\)"),
    ):
        FolderLock(tmp_path).take()
    with FolderLock(tmp_path):
        pass


@pytest.mark.parametrize("content", [b"garbage", b"\x00\xff\xfe", b"9" * 99, b"-1"])
def test_a_damaged_lock_is_refused_while_somebody_holds_it_and_taken_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes
) -> None:
    monkeypatch.setattr("tally.local.lock.GUARDIAN_DONE_S", 0.1)
    with FolderLock(tmp_path):
        (tmp_path / "lock").write_bytes(content)
        with pytest.raises(LocalError, match=rf"^Tally already runs from {tmp_path}: "), FolderLock(tmp_path):
            pass
    with FolderLock(tmp_path):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_folder_where_the_lock_should_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "lock").mkdir()
    with pytest.raises(LocalError, match=r"lock cannot be opened \(Is a directory\): delete it"):
        FolderLock(tmp_path)


def test_a_lock_that_only_a_guardian_holds_is_waited_for(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    first = FolderLock(tmp_path)
    first.take()
    (tmp_path / "lock").write_text(f"{dead.pid}\n")
    waited: list[None] = []

    def meanwhile() -> None:
        waited.append(None)
        first.release()

    second = FolderLock(tmp_path)
    second.take(meanwhile)
    second.release()
    assert waited


# Processes and ports


def test_who_listens_on_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert is_taken("127.0.0.1", port)
        if sys.platform == "linux":
            assert (holder(port) or "").startswith(f"process {os.getpid()} (")
    assert not is_taken("127.0.0.1", port)


def test_free_ports_are_below_the_ephemeral_range() -> None:
    port = free_port(beside=1000)
    assert port in FREE_PORTS
    assert FREE_PORTS.stop + 1000 <= 32_768
    assert not is_taken("127.0.0.1", port + 1000)


def test_a_process_is_alive_until_it_has_ended() -> None:
    with subprocess.Popen(SLEEP) as process:
        try:
            assert alive(process.pid)
            # Linux has let Popen go on before it has filled in the new program's command line.
            until(lambda: "time.sleep(600)" in (command_line(process.pid) or ""), "the new program's command line")
        finally:
            process.kill()
    assert not alive(process.pid)
    assert command_line(process.pid) is None
