"""LocalStack: PostgreSQL and every service of the table, as one object.

`tally run`, the integration tests and chaos-local all drive the same one:

    with LocalStack(folder, ports=free_ports()) as stack:
        stack.urls["gateway"]
        stack.kill("author")            # a supervised service comes back by itself
        stack.pause("conference")       # SIGSTOP; stack.resume("conference")
        stack.kill("postgres")

One stack per folder: a lock that outlives us until everything we started is gone. Everything is checked before anything
is started, a start that fails half-way stops what it started, and each failure is one sentence (`LocalError`).
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tally.chassis.settings import ADMIN_OFFSET
from tally.local.ask import not_ready
from tally.local.child import BACKOFF_S, Child, OnEvent, OnLine, in_words
from tally.local.cluster import AFRESH, make_folder
from tally.local.failure import LocalError
from tally.local.guardian import Guardian
from tally.local.keys import token_variables
from tally.local.lock import FolderLock
from tally.local.postgres import EmbeddedPostgres
from tally.local.processes import FREE_PORTS, free_port, is_taken
from tally.local.services import (
    SERVICES,
    Program,
    check_ports,
    check_variables,
    environment,
    filled,
    own_database,
    place,
    postgres_port,
)

POSTGRES = "postgres"
READY_TIMEOUT_S = 60.0
MIGRATE_TIMEOUT_S = 120.0
POLL_S = 0.05
# Longer than a service's own shutdown_grace_s, so that it is the service that gives up first.
STOP_TIMEOUT_S = 15.0

DAMAGED = f"If the data is damaged, restore it from a backup, {AFRESH}."


class Interrupted(Exception):
    """Somebody asked to stop while we were starting."""


def free_ports(programs: Sequence[Program] = SERVICES) -> dict[str, int]:
    """Ports for a stack of its own, each with a free admin port above it."""
    ports: dict[str, int] = {}
    taken: set[int] = set()
    for program in programs:
        while True:
            port = free_port(beside=program.admin_offset)
            pair = {port, port + program.admin_offset}
            if not pair & taken and max(pair) < FREE_PORTS.stop + ADMIN_OFFSET:
                break
        taken |= pair
        ports[program.name] = port
    return ports


class LocalStack:
    """`env` adds to the environment (`TALLY_…` of every service, `TALLY_LOCAL_AUTHOR_…` of one); `supervise` starts
    again who dies; `durable=False` turns PostgreSQL's fsync off. `on_line` and `on_event` are called from other
    threads.
    """

    def __init__(
        self,
        folder: Path,
        *,
        programs: Sequence[Program] = SERVICES,
        ports: Mapping[str, int] | None = None,
        env: Mapping[str, str] | None = None,
        supervise: bool = True,
        durable: bool = True,
        on_line: OnLine = lambda name, line: None,
        on_event: OnEvent = lambda name, sentence: None,
    ) -> None:
        self.folder = Path(folder).absolute()
        self.programs = tuple(programs)
        self.supervise = supervise
        self._environ = {**os.environ, **(env or {})}
        check_variables(self.programs, self._environ)
        self.places = place(self.programs, self._environ, ports)
        self._durable = durable
        self._tokens: dict[str, str] = {}
        self._on_line, self._on_event = on_line, on_event
        self._children: dict[str, Child] = {}
        self._postgres: EmbeddedPostgres | None = None
        self._postgres_keeper: threading.Thread | None = None
        self._guardian: Guardian | None = None
        self._lock: FolderLock | None = None
        self._leave = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<LocalStack {self.folder} running: {', '.join(self.running()) or 'nothing'}>"

    # What it is

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be killed: the services, and postgres."""
        return (*(program.name for program in self.programs), POSTGRES)

    def running(self) -> dict[str, int]:
        """The process numbers of what runs now."""
        return {name: pid for name in self.names if (pid := self._pid(name))}

    @property
    def urls(self) -> dict[str, str]:
        return {name: here.url for name, here in self.places.items()}

    @property
    def admin_urls(self) -> dict[str, str]:
        return {name: here.admin_url for name, here in self.places.items()}

    @property
    def postgres(self) -> EmbeddedPostgres:
        if self._postgres is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._postgres

    @property
    def has_postgres(self) -> bool:
        return any(own_database(program, self._environ) for program in self.programs)

    def dsn(self, name: str) -> str:
        """The address of a service's database, as the service gets it."""
        return self.environment(name)["TALLY_DATABASE_URL"]

    def environment(self, name: str) -> dict[str, str]:
        """What a service's process gets."""
        program = self._program(name)
        dsn = self.postgres.dsn(name, name) if own_database(program, self._environ) else None
        environ = {**self._tokens, **self._environ}
        return environment(program, self.places, self.programs, environ, dsn)

    def log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"

    def process(self, name: str) -> int:
        """The process number of a service or of postgres."""
        pid = self._pid(name)
        if pid is None:
            raise LookupError(f"{name} is not running")
        return pid

    # All of it

    def start(self, *, interrupted: Callable[[], bool] = lambda: False, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start everything and return when everything is ready; on a failure nothing is left running."""
        try:
            self._start(interrupted, timeout_s)
        except BaseException:
            self.stop()
            raise

    def _start(self, interrupted: Callable[[], bool], timeout_s: float) -> None:
        def go_on() -> None:
            if interrupted():
                raise Interrupted

        self._leave.clear()
        lock = FolderLock(self.folder)
        lock.take(go_on)
        self._lock = lock
        self._tokens = token_variables(self.folder)
        check_ports(self.programs, self.places)
        self._guardian = Guardian(keep=(lock.fileno(),))
        go_on()
        if self.has_postgres:
            self._start_postgres()
        go_on()
        self._migrate()
        go_on()
        self._start_services(go_on, timeout_s)

    def stop(self) -> None:
        """Stop everything, who uses others first and PostgreSQL last. Safe to call at any time, and twice."""
        self._leave.set()
        for stage in sorted({child.stage for child in self._children.values()}, reverse=True):
            self._stop_together([child for child in self._children.values() if child.stage == stage])
        if self._postgres is not None:
            self._postgres.stop()
        if self._postgres_keeper is not None:
            self._postgres_keeper.join()
        if self._guardian is not None:
            self._guardian.dismiss()
        if self._lock is not None:
            self._lock.release()
        self._children, self._postgres_keeper, self._guardian, self._lock = {}, None, None, None

    def kill_everything(self) -> None:
        """At once and without goodbye; call `stop` too. For whoever presses Ctrl-C twice."""
        self._leave.set()
        for child in list(self._children.values()):
            child.kill()
        if self._postgres is not None and (pid := self._postgres.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGQUIT)

    # One of them

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal and wait until the process is gone if it is SIGKILL. A supervised one is then started again."""
        pid = self.process(name)
        if name == POSTGRES:
            os.kill(pid, number)
        else:
            self._children[name].send(number)
        if number == signal.SIGKILL:
            self._wait_until_gone(name, pid)

    def pause(self, name: str) -> None:
        """SIGSTOP: it holds its connections and answers nobody. (Of postgres: nobody can connect, who is goes on.)"""
        os.kill(self.process(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.kill(self.process(name), signal.SIGCONT)

    def stop_service(self, name: str) -> None:
        """Stop one service and leave it stopped."""
        self._children[name].stop(STOP_TIMEOUT_S)

    def start_service(self, name: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Start one that was stopped, or that died unsupervised, and wait until it is ready."""
        self.begin_service(name)
        self.wait_ready(name, timeout_s=timeout_s)

    def begin_service(self, name: str) -> None:
        """The same without waiting."""
        self._children[name].start()

    def restart(self, name: str, *, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Stop one in order and start it again; one that does not run is started."""
        if name == POSTGRES:
            self.postgres.restart()
        else:
            self.stop_service(name)
            self.start_service(name, timeout_s=timeout_s)

    def is_ready(self, name: str) -> bool:
        """Whether a service says so itself, or postgres answers."""
        return self._not_ready(name) is None

    def wait_ready(self, *names: str, timeout_s: float = READY_TIMEOUT_S) -> None:
        """Wait until these, or all of them, say that they are ready."""
        everything = (*self._children, *([POSTGRES] if self._postgres else []))
        self._wait_ready(names or everything, lambda: None, timeout_s)

    # Starting

    def _start_postgres(self) -> None:
        _keep_previous(self.log(POSTGRES))
        self._postgres = EmbeddedPostgres(
            self.folder / POSTGRES,
            postgres_port(self._environ),
            durable=self._durable,
            log=self.log(POSTGRES),
            guardian=self._guardian,
        )
        self._postgres.start()
        try:
            for program in self.programs:
                if own_database(program, self._environ):
                    self._postgres.create_database(program.name, program.name)
        except LocalError as error:
            raise LocalError(f"{error}\n{DAMAGED}") from error
        self._postgres_keeper = threading.Thread(target=self._keep_postgres, name="keep-postgres", daemon=True)
        self._postgres_keeper.start()

    def _migrate(self) -> None:
        """Every service's migrations at once; they are about different databases."""
        with ThreadPoolExecutor() as pool:
            for done in [pool.submit(self._migrate_one, program) for program in self.programs if program.migrate]:
                done.result()

    def _migrate_one(self, program: Program) -> None:
        assert program.migrate is not None
        command = filled(program.migrate, self.places[program.name], self._folder_of(program))
        try:
            done = subprocess.run(
                command,
                env=self.environment(program.name),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=MIGRATE_TIMEOUT_S,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            raise LocalError(f"The {program.name} database did not migrate within {MIGRATE_TIMEOUT_S:g} s.") from None
        if done.returncode != 0:
            raise LocalError(
                f"The {program.name} database did not migrate ({in_words(done.returncode)}); it said:\n"
                + _indented(done.stdout.decode(errors="replace").splitlines())
                + (f"\n{DAMAGED}" if own_database(program, self._environ) else "")
            )

    def _start_services(self, go_on: Callable[[], None], timeout_s: float) -> None:
        assert self._guardian is not None
        for program in sorted(self.programs, key=lambda program: program.stage):
            _keep_previous(self.log(program.name))
            if program.has_folder:
                make_folder(self._folder_of(program))
            child = self._children[program.name] = Child(
                program.name,
                filled(program.command, self.places[program.name], self._folder_of(program)),
                self.environment(program.name),
                stage=program.stage,
                log=self.log(program.name),
                guardian=self._guardian,
                on_line=self._on_line,
                on_event=self._on_event,
            )
            try:
                child.start()
            except FileNotFoundError as error:
                raise LocalError(
                    f"The {program.name} service's program {error.filename} is missing: `make clean` and then "
                    "`make run` install it again."
                ) from error
            except OSError as error:
                raise LocalError(f"The {program.name} service cannot be started: {error}.") from error
        self._wait_ready(tuple(self._children), go_on, timeout_s)
        if self.supervise:
            for child in self._children.values():
                child.start()  # again, if it died since it was ready
                child.supervised = True

    def _folder_of(self, program: Program) -> Path:
        return self.folder / program.name

    def _wait_ready(self, names: Sequence[str], go_on: Callable[[], None], timeout_s: float) -> None:
        waiting = dict.fromkeys(names, "it was not asked yet")
        give_up = time.monotonic() + timeout_s
        while waiting:
            go_on()
            for name in list(waiting):
                child = self._children.get(name)
                if child and child.ended and not child.supervised:
                    raise LocalError(
                        f"The {name} service stopped while it was starting ({child.ended}); its last words:\n"
                        + _indented(child.last_lines())
                        + f"\n{self._what_to_do(name)}"
                    )
                reason = self._not_ready(name)
                if reason is None:
                    del waiting[name]
                else:
                    waiting[name] = reason
                    if self._is_hopeless(name, reason):
                        raise LocalError(f"The {name} service cannot get ready ({reason}). {self._what_to_do(name)}")
            if waiting and time.monotonic() > give_up:
                name, reason = next(iter(waiting.items()))
                raise LocalError(
                    f"The {name} service was not ready within {timeout_s:g} s ({reason}). {self._what_to_do(name)}"
                )
            if waiting:
                time.sleep(POLL_S)

    def _is_hopeless(self, name: str, reason: str) -> bool:
        """Whether waiting is in vain: it says so, and still does when it has begun to serve. (Until then NATS calls
        lost what it has not come to yet.)
        """
        if name == POSTGRES or not (words := self._program(name).hopeless) or words not in reason:
            return False
        here = self.places[name]
        return is_taken(here.host, here.port) and words in (self._not_ready(name) or "")

    def _what_to_do(self, name: str) -> str:
        remedy = "" if name == POSTGRES else self._program(name).remedy
        return f"Its log is {self.log(name)}. {remedy.format(folder=self.folder / name)}".rstrip()

    def _not_ready(self, name: str) -> str | None:
        """None when it is ready, else why not."""
        if name == POSTGRES:
            return None if self.postgres.is_ready else "it recovers, or does not run"
        return not_ready(self._program(name), self.places[name])

    # While it runs

    def _keep_postgres(self) -> None:
        """Start PostgreSQL again when it dies, unless somebody stopped it."""
        failures = 0
        while not self._leave.is_set():
            code = self.postgres.wait()
            if self._leave.wait(0.05):
                return
            if not self.postgres.has_died or not self.supervise:
                # It was stopped or restarted on purpose, or it is to stay dead.
                self._leave.wait(0.0 if self.postgres.pid else 0.2)
                continue
            if code is not None:
                self._on_event(POSTGRES, f"died ({in_words(code)}); starting it again")
            try:
                self.postgres.start()
                failures = 0
            except LocalError as error:
                self._on_event(POSTGRES, str(error))
                self._leave.wait(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
                failures += 1

    def _stop_together(self, children: Sequence[Child]) -> None:
        for child in children:
            child.ask_to_stop()
        give_up = time.monotonic() + STOP_TIMEOUT_S
        for child in children:
            if not child.stop(max(0.0, give_up - time.monotonic())):
                self._on_event(child.name, f"did not stop within {STOP_TIMEOUT_S:g} s and was killed")

    def _wait_until_gone(self, name: str, pid: int) -> None:
        while self._pid(name) == pid:
            time.sleep(0.005)

    def _pid(self, name: str) -> int | None:
        if name == POSTGRES:
            return self._postgres.pid if self._postgres else None
        return self._children[name].pid if name in self._children else None

    def _program(self, name: str) -> Program:
        return next(program for program in self.programs if program.name == name)


def _keep_previous(log: Path) -> None:
    """Each run has a log of its own; the one before is kept."""
    if log.exists():
        log.replace(log.with_name(f"{log.name}.1"))


def _indented(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}" for line in lines[-20:]) or "    (nothing)"
