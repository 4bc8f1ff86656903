"""What the operating system says about processes and ports, without a dependency.

Linux answers from /proc, other systems from `ps` and `lsof`; where neither knows, the answer is None, never a guess.
"""

import errno
import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

LOOPBACK = "127.0.0.1"
# Below every system's ephemeral range (32768 on Linux). A server on an ephemeral port can lose it while it restarts:
# to an outgoing connection, or to a client that reconnects in a loop and ends up connected to itself.
FREE_PORTS = range(15_000, 31_000)
PIDS = range(1, 2**31)
PORTS = range(1, 2**16)


def alive(pid: int) -> bool:
    """Whether a process of this number runs. (Where there is no /proc, one that ended but was not collected counts.)"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state != "Z"


def pid_in(text: str) -> int:
    """The process number that a file says; 0 if it says none, for such a file may be damaged."""
    pid = number_in(text)
    return pid if pid in PIDS else 0


def number_in(text: str) -> int:
    """0 if it is no number."""
    try:
        return int(text)
    except ValueError:
        return 0


def command_line(pid: int) -> str | None:
    """The command line of a process, or None if it is gone or not ours to see."""
    if sys.platform == "linux":
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return None
    return _output("ps", "-ww", "-o", "command=", "-p", str(pid))


def is_taken(host: str, port: int) -> bool:
    """Whether a server could not listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: a port with only finished connections (TIME_WAIT) is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return True
            raise
    # macOS lets a second server bind beside one that listens on every address, so ask as a client would as well.
    with socket.socket(family) as probe:
        probe.settimeout(0.2)
        return probe.connect_ex((host, port)) == 0


def free_port(*, beside: int = 0) -> int:
    """A port on which nobody listens now; with `beside`, the one that many above it is free too."""
    choice = random.SystemRandom()
    for _ in range(1000):
        port = choice.choice(FREE_PORTS)
        if not is_taken(LOOPBACK, port) and not (beside and is_taken(LOOPBACK, port + beside)):
            return port
    raise OSError(errno.EADDRINUSE, f"no free port between {FREE_PORTS.start} and {FREE_PORTS.stop}")


def holder(port: int) -> str | None:
    """Who listens on a port, as "process 123 (python3 -m http.server)"; None if that cannot be seen."""
    pid = _listener_on_linux(port) if sys.platform == "linux" else _listener_by_lsof(port)
    if pid is None:
        return None
    command = command_line(pid) or "?"
    return f"process {pid} ({command if len(command) <= 60 else command[:57] + '…'})"


def _listener_on_linux(port: int) -> int | None:
    sockets = {f"socket:[{inode}]" for inode in _listening_inodes(port)}
    if not sockets:
        return None
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(os.readlink(folder / number) in sockets for number in os.listdir(folder)):
                return int(folder.parent.name)
    return None


def _listening_inodes(port: int) -> Iterator[str]:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with suppress(OSError):
            for row in Path(table).read_text().splitlines()[1:]:
                fields = row.split()
                listening = fields[3] == "0A"
                if listening and int(fields[1].rpartition(":")[2], 16) == port:
                    yield fields[9]


def _listener_by_lsof(port: int) -> int | None:
    pids = _output("lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-t")
    return int(pids.split()[0]) if pids else None


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
