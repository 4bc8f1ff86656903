"""EmbeddedPostgres: one PostgreSQL server on one folder, for `make run`, the tests and the bench.

It listens on the loopback address only, asks everybody for a password and has no Unix socket. A server that an earlier
run left on the folder is ended first. What is in the folder: `cluster.py`.

All methods are synchronous and may be called from any thread.
"""

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Literal, Self

from tally.local.binaries import Account, Programs, account_for, programs
from tally.local.cluster import AFRESH, SUPERUSER, Cluster, make_folder, surroundings
from tally.local.failure import LocalError
from tally.local.guardian import Guardian
from tally.local.processes import LOOPBACK, alive, command_line, free_port, is_taken, pid_in

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
POLL_S = 0.01

Mode = Literal["smart", "fast", "immediate"]
SIGNALS: dict[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}

SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "wal_level": "logical",
    # A reader of the log that is away must not fill the disk.
    "max_slot_wal_keep_size": "1GB",
    "max_replication_slots": "50",
    "max_connections": "200",
    "shared_buffers": "128MB",
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
"""Given on the command line at each start, so that nothing in the data folder has to be edited."""

# A killed process loses nothing by these, a machine that loses its power loses everything.
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off"}


class EmbeddedPostgres:
    """`with EmbeddedPostgres(folder) as postgres: postgres.dsn("author")`.

    `port` 0 takes the folder's last port, or any free one. `durable=False` turns fsync off, for tests. A `guardian`
    ends the server if this process is killed; without one it makes its own.
    """

    def __init__(
        self,
        folder: Path,
        port: int = 0,
        *,
        durable: bool = True,
        log: Path | None = None,
        guardian: Guardian | None = None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.log = log or self.folder / "postgres.log"
        self.cluster = Cluster(self.folder)
        self.port = port
        self._port_is_fixed = port != 0
        self._settings = SETTINGS | ({} if durable else NOT_DURABLE)
        self._durable = durable
        self._guardian = guardian
        self._guardian_is_shared = guardian is not None
        self._process: subprocess.Popen[bytes] | None = None
        self._wanted = False
        self._lock = RLock()

    def __repr__(self) -> str:
        state = f"running as {self.pid}" if self.pid else "stopped"
        return f"<EmbeddedPostgres {self.folder} port={self.port} {state}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # What it is

    @property
    def data(self) -> Path:
        return self.cluster.data

    @property
    def pid(self) -> int | None:
        """The postmaster, or None when it does not run."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    @property
    def is_ready(self) -> bool:
        """It answers; after a crash it recovers first."""
        return (pid := self.pid) is not None and self._postmaster_says("ready", pid)

    @property
    def has_died(self) -> bool:
        """It was started, nobody stopped it, and it does not run."""
        return self._wanted and self.pid is None

    def dsn(self, database: str, role: str | None = None) -> str:
        """The address of a database for a role that `create_database` made; None is the superuser."""
        role = role or SUPERUSER
        return f"postgresql://{role}:{self.cluster.password(role)}@{LOOPBACK}:{self.port}/{database}"

    # Start and stop

    def start(self) -> None:
        """Make the cluster if there is none, end what an earlier run left, start, and return when it answers."""
        with self._lock:
            if self.pid:
                return
            if self._process:
                self._collected(self._process)
            try:
                self._start()
            except BaseException:
                self._dismiss_guardian()
                raise
            self._wanted = True

    def _start(self) -> None:
        make_folder(self.folder)
        make_folder(self.log.parent)
        account = account_for(self.data)
        found = programs(account)
        if self.cluster.exists():
            self._check_postmaster_file()
            self._end_leftover()
        else:
            self.cluster.initialise(found, account, durable=self._durable)
        self.cluster.check(found)
        self._start_server(found, account)

    def stop(self, mode: Mode = "fast") -> None:
        """Stop; "fast" disconnects everybody and writes a checkpoint, "immediate" leaves a crash to recover from."""
        with self._lock:
            self._wanted = False
            if process := self._process:
                _end(process, SIGNALS[mode])
                self._collected(process)
            self._dismiss_guardian()

    def kill(self) -> None:
        """SIGKILL the postmaster, as the out-of-memory killer would. Its backends notice and end by themselves."""
        with self._lock:
            if process := self._process:
                process.kill()
                process.wait()
                self._collected(process)

    def restart(self, mode: Mode = "fast") -> None:
        with self._lock:
            self.stop(mode)
            self.start()

    def wait(self) -> int | None:
        """Wait until the server ends, by itself or not: its exit code, negative for a signal; None if none runs."""
        process = self._process
        if process is None:
            return None
        code = process.wait()
        if self._guardian:
            self._guardian.forget(process.pid)
        return code

    def destroy(self) -> None:
        """Stop, and delete the folder with everything in it."""
        self.stop("immediate")
        if self.folder.exists():
            self._end_leftover()
            self.cluster.destroy()

    # Databases and roles

    def create_database(
        self, name: str, owner: str, *, template: str | None = None, connection_limit: int = -1
    ) -> None:
        """A database that only its owner (made if need be) can connect to; nothing happens if it is there."""
        self.execute(
            self._role(owner)
            + f"SELECT 'CREATE DATABASE {_name(name)} OWNER {_name(owner)} CONNECTION LIMIT {connection_limit:d} "
            f"TEMPLATE {_name(template or 'template1')}' WHERE NOT EXISTS "
            f"(SELECT FROM pg_database WHERE datname = '{_name(name)}')\\gexec\n"
            f"REVOKE ALL ON DATABASE {_name(name)} FROM PUBLIC;"
        )

    def _role(self, name: str) -> str:
        with self._lock:
            password = self.cluster.make_password(name)
        # psql's \gexec runs what the query returned: CREATE ROLE and CREATE DATABASE know no IF NOT EXISTS.
        return (
            f"SELECT $$CREATE ROLE {_name(name)} LOGIN PASSWORD '{password}'$$ WHERE NOT EXISTS "
            f"(SELECT FROM pg_roles WHERE rolname = '{_name(name)}')\\gexec\n"
            # For TALLY_RELAY=wal: a role may read the log of the databases that it can connect to.
            f"ALTER ROLE {_name(name)} REPLICATION;\n"
        )

    def drop_database(self, name: str) -> None:
        """Drop a database and disconnect whoever uses it."""
        self.execute(f"DROP DATABASE IF EXISTS {_name(name)} WITH (FORCE);")

    def execute(self, sql: str, database: str = SUPERUSER) -> list[str]:
        """Run SQL as the superuser with `psql`: one string per row, columns separated by `|`."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            [programs(None).path("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-f", "-"],
            input=sql,
            text=True,
            capture_output=True,
            check=False,
            **surroundings(
                None,
                PGHOST=LOOPBACK,
                PGPORT=str(self.port),
                PGUSER=SUPERUSER,
                PGDATABASE=database,
                PGPASSWORD=self.cluster.password(SUPERUSER),
                PGCONNECT_TIMEOUT="10",
                PGCLIENTENCODING="UTF8",
            ),
        )
        if done.returncode != 0:
            raise LocalError(f"PostgreSQL refused: {done.stderr.strip()}")
        return done.stdout.splitlines()

    # The server

    def _start_server(self, found: Programs, account: Account | None) -> None:
        """Try until it answers; only reasons that pass by themselves are worth another try."""
        self.port = self.port or self._last_port() or free_port()
        give_up = time.monotonic() + START_TIMEOUT_S
        while True:
            said = self._try_to_start(found, account)
            if said is None:
                break
            if "could not bind" in said or "could not create any TCP/IP sockets" in said:
                if self._port_is_fixed:
                    raise LocalError(
                        f"Port {self.port} (PostgreSQL's) is taken: stop who uses it, or choose another "
                        "with TALLY_LOCAL_POSTGRES_PORT."
                    )
                self.port = free_port()
            elif "shared memory block" not in said or time.monotonic() > give_up:
                raise LocalError(
                    f"PostgreSQL did not start: {said} Its log is {self.log}; if its data is damaged, restore it from "
                    f"a backup, {AFRESH}."
                )
            else:
                # The backends of a postmaster that was killed are still ending.
                time.sleep(0.1)
        self._port_is_fixed = True  # clients know it now, a restart must not move it
        self.cluster.keep_port(self.port)

    def _try_to_start(self, found: Programs, account: Account | None) -> str | None:
        """None when it answers, else what it said."""
        self._guardian = self._guardian or Guardian()
        begin = self.log.stat().st_size if self.log.exists() else 0
        options = [f"--{name}={value}" for name, value in (self._settings | {"port": str(self.port)}).items()]
        with self.log.open("ab") as log:
            process = self._process = subprocess.Popen(
                [found.path("postgres"), "-D", self.data.resolve(), *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **surroundings(account),
            )
        self._guardian.watch(process.pid, stage=-1, first=signal.SIGINT, last=signal.SIGQUIT)
        give_up = time.monotonic() + START_TIMEOUT_S
        while process.poll() is None and time.monotonic() < give_up:
            if self._postmaster_says("ready", process.pid):
                return None
            time.sleep(POLL_S)
        if process.poll() is None:
            _end(process, signal.SIGQUIT)
        self._collected(process)
        return _complaint(self.log, begin) or "it gave no reason."

    def _postmaster_says(self, status: str, pid: int) -> bool:
        lines = self._postmaster_file()
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == status

    def _postmaster_file(self) -> list[str]:
        """postmaster.pid: process, data folder, start time, port, socket folder, address, shared memory, status."""
        try:
            return (self.data / "postmaster.pid").read_text(errors="replace").splitlines()
        except OSError:
            return []

    def _check_postmaster_file(self) -> None:
        file = self.data / "postmaster.pid"
        if file.exists() and not self._leftover():
            raise LocalError(
                f"{file} is damaged, and says not which server uses the data: see that no PostgreSQL runs on "
                f"{self.data}, delete the file, and try again."
            )

    def _leftover(self) -> int:
        """The process that postmaster.pid names; 0 if it names none. (A server for one user writes it negative.)"""
        return pid_in("".join(self._postmaster_file()[:1]).strip().removeprefix("-"))

    def _end_leftover(self) -> None:
        """Stop the server that an earlier run, killed together with its guardian, left on this very folder."""
        pid = self._leftover()
        if not pid or not alive(pid):
            return
        data = str(self.data.resolve())
        if f" -D {data} " in f"{command_line(pid)} ":
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGINT)
            if not _until(lambda: not alive(pid), STOP_TIMEOUT_S):
                raise LocalError(f"PostgreSQL of an earlier run (process {pid}) does not stop: end it and try again.")
        else:
            # The machine was restarted and the number is somebody else's now; PostgreSQL would take him for its own.
            (self.data / "postmaster.pid").unlink()

    def _dismiss_guardian(self) -> None:
        """If it is our own: it ends what it still watches."""
        if self._guardian and not self._guardian_is_shared:
            self._guardian.dismiss()
            self._guardian = None

    def _collected(self, process: "subprocess.Popen[bytes]") -> None:
        if self._guardian:
            self._guardian.forget(process.pid)
        self._process = None

    def _last_port(self) -> int:
        port = self.cluster.port()
        return 0 if port and is_taken(LOOPBACK, port) else port


def _end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Ask; then insist twice, because a server that hangs must not hang us."""
    for step in (number, signal.SIGQUIT, signal.SIGKILL):
        process.send_signal(step)
        process.send_signal(signal.SIGCONT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_TIMEOUT_S)
            return
    process.wait()


def _until(holds: Callable[[], bool], timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() > give_up:
            return False
        time.sleep(POLL_S)
    return True


def _complaint(log: Path, begin: int) -> str | None:
    """The first line since `begin` that explains why the server ended, with its detail or hint."""
    with log.open("rb") as file:
        file.seek(begin)
        lines = file.read().decode(errors="replace").splitlines()
    return _first(lines, ("could not bind", "shared memory block")) or _first(
        lines, ("PANIC: ", "FATAL: ", "postgres: ")
    )


def _first(lines: Iterable[str], words: tuple[str, ...]) -> str | None:
    for line in lines:
        if any(word in line for word in words):
            return re.sub(r"^.*?(LOG|PANIC|FATAL|postgres): +", "", line).rstrip(".") + "."
    return None


def _name(identifier: str) -> str:
    """Names go into SQL as they are, so only names that need no quotes are taken."""
    if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", identifier):
        raise ValueError(f"not a plain database name: {identifier!r}")
    return identifier
