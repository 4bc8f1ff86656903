"""The launcher with real processes and a real PostgreSQL; the services are stand-ins, through the same table."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import psutil  # type: ignore[import-untyped]
import pytest

from tally.chassis.settings import ADMIN_OFFSET
from tally.local import services
from tally.local.ask import ask
from tally.local.failure import LocalError
from tally.local.keys import token_variables
from tally.local.stack import LocalStack, free_ports
from tally.local.walkthrough import Demonstration
from tests.support.folders import scratch_folder
from tests.support.stacks import NATS, STANDINS

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as scratch:
        yield scratch / ".tally"


class Told:
    """Collects what a stack says, and waits for a named moment."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def __call__(self, name: str, sentence: str) -> None:
        self.events.append((name, sentence))

    def of(self, name: str) -> list[str]:
        return [sentence for who, sentence in self.events if who == name]


def a_stack(folder: Path, told: Told | None = None, **options: Any) -> LocalStack:
    return LocalStack(
        folder,
        programs=STANDINS,
        ports=free_ports(STANDINS),
        durable=False,
        on_event=told or Told(),
        **options,
    )


def until(holds: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
    give_up = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < give_up, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.02)


def family(pid: int) -> list[psutil.Process]:
    """A process and its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def lives(process: psutil.Process) -> bool:
    """A zombie that its new parent has not collected yet is gone as well."""
    with suppress(psutil.NoSuchProcess):
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    return False


def runs_of(stack: LocalStack, name: str) -> int:
    return int(stack.postgres.execute("SELECT count(*) FROM migration", name)[0])


def kept_while_it_runs(folder: Path) -> int:
    return int((folder / "postgres" / "port").read_text())


# One stack that several tests look at


@pytest.fixture(scope="module")
def running() -> Iterator[LocalStack]:
    with scratch_folder() as scratch, a_stack(scratch / ".tally", told := Told()) as stack:
        stack.told = told  # type: ignore[attr-defined]
        yield stack


def test_each_service_gets_its_own_port_database_and_everybodys_address(running: LocalStack) -> None:
    given = ask("GET", running.urls["alpha"]).body["environment"]
    assert given["TALLY_PORT"] == str(running.places["alpha"].port)
    assert given["TALLY_ADMIN_PORT"] == str(running.places["alpha"].port + ADMIN_OFFSET)
    assert given["TALLY_BETA_URL"] == running.urls["beta"]
    assert given["TALLY_DATABASE_URL"] == running.dsn("alpha") != running.dsn("beta")
    assert given["TALLY_LOG_FORMAT"] == "json"
    assert "TALLY_DATABASE_URL" not in ask("GET", running.urls["gamma"]).body["environment"]


def test_one_services_role_cannot_enter_anothers_database(running: LocalStack) -> None:
    [refused] = running.postgres.execute(
        "SELECT has_database_privilege('alpha', 'beta', 'connect'), has_database_privilege('alpha', 'alpha', 'connect')"
    )
    assert refused == "f|t"


def test_a_killed_service_is_started_again_and_it_is_said(running: LocalStack) -> None:
    before = running.process("alpha")
    running.kill("alpha")
    running.wait_ready("alpha")
    assert running.process("alpha") != before
    assert "died (SIGKILL); starting it again in 0.2 s" in running.told.of("alpha")  # type: ignore[attr-defined]


def test_a_service_that_exits_is_started_again(running: LocalStack) -> None:
    before = running.process("beta")
    with suppress(OSError):
        ask("POST", running.urls["beta"] + "/crash")
    until(lambda: running.running().get("beta", before) != before, "another beta")
    running.wait_ready("beta")
    assert any("exit code 3" in said for said in running.told.of("beta"))  # type: ignore[attr-defined]


def test_killed_postgres_is_started_again_on_its_port_with_its_data(running: LocalStack) -> None:
    before, port = running.process("postgres"), running.postgres.port
    running.postgres.execute("CREATE TABLE kept AS SELECT 1 AS one", "alpha")
    running.kill("postgres")
    until(lambda: running.running().get("postgres", before) != before, "another postgres")
    running.wait_ready("postgres")
    assert running.postgres.execute("TABLE kept", "alpha") == ["1"]
    assert running.postgres.port == port


def test_a_paused_service_does_not_answer_until_it_is_resumed(running: LocalStack) -> None:
    running.pause("gamma")
    assert not running.is_ready("gamma")
    running.resume("gamma")
    running.wait_ready("gamma")


def test_a_stopped_service_stays_stopped_until_it_is_started(running: LocalStack) -> None:
    running.stop_service("gamma")
    with pytest.raises(LookupError, match="gamma is not running"):
        running.process("gamma")
    running.start_service("gamma")
    assert running.is_ready("gamma")


def test_a_restart_is_not_taken_for_a_death(running: LocalStack) -> None:
    said = len(running.told.events)  # type: ignore[attr-defined]
    before = running.running()
    running.restart("postgres")
    running.restart("gamma")
    assert running.process("postgres") != before["postgres"]
    assert running.process("gamma") != before["gamma"]
    assert len(running.told.events) == said  # type: ignore[attr-defined]


def test_a_second_run_in_the_folder_is_refused_in_one_sentence(running: LocalStack) -> None:
    second = a_stack(running.folder)
    with pytest.raises(
        LocalError, match=rf"^Tally already runs from {running.folder} \(process {os.getpid()}\): .*\.$"
    ):
        second.start()
    assert running.is_ready("alpha")


def test_two_stacks_run_side_by_side(running: LocalStack, folder: Path) -> None:
    with a_stack(folder) as other:
        assert other.postgres.port != running.postgres.port
        assert all(stack.is_ready(name) for stack in (running, other) for name in ("alpha", "beta", "gamma"))
        assert not set(other.running().values()) & set(running.running().values())


# Its whole life


def test_data_and_port_survive_a_restart_and_a_stop_leaves_no_process(folder: Path) -> None:
    others = psutil.Process().children(recursive=True)
    stack = a_stack(folder)
    stack.start()
    port = stack.postgres.port
    processes = [process for process in psutil.Process().children(recursive=True) if process not in others]
    assert len(processes) >= 5
    stack.stop()
    assert [process for process in processes if lives(process)] == []
    stack.start()
    try:
        assert runs_of(stack, "alpha") == 2
        assert stack.postgres.port == port == kept_while_it_runs(folder)
    finally:
        stack.stop()


def test_one_that_died_after_it_was_ready_and_before_all_were_is_started_again(folder: Path) -> None:
    stack = a_stack(folder)

    def moments() -> Iterator[None]:
        until(lambda: "gamma" in stack.running(), "all are running")
        stack.pause("gamma")
        until(lambda: stack.is_ready("alpha"), "alpha is ready")
        yield
        yield  # alpha is not waited for any more
        stack.kill("alpha")
        stack.resume("gamma")
        while True:
            yield

    now = moments()

    def interrupted() -> bool:
        if "alpha" in stack.running():
            next(now)
        return False

    stack.start(interrupted=interrupted)
    try:
        stack.wait_ready("alpha")
    finally:
        stack.stop()


def test_without_supervision_the_dead_stay_dead(folder: Path) -> None:
    told = Told()
    with a_stack(folder, told, supervise=False) as stack:
        stack.kill("alpha")
        stack.kill("postgres")
        time.sleep(0.5)
        assert stack.running().keys() == {"beta", "gamma"}
        stack.restart("postgres")
        stack.start_service("alpha")
        assert runs_of(stack, "alpha") == 1
    assert told.events == []


def test_a_service_that_ignores_sigterm_is_killed_and_it_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tally.local.stack.STOP_TIMEOUT_S", 1.0)
    told = Told()
    with a_stack(folder, told, env={"TALLY_LOCAL_BETA_STANDIN": "deaf"}) as stack:
        pid = stack.process("beta")
    assert not psutil.pid_exists(pid)
    assert told.events == [("beta", "did not stop within 1 s and was killed")]


def test_a_program_that_is_no_service_is_one_more_row(folder: Path) -> None:
    table = (NATS, *STANDINS)
    with LocalStack(folder, programs=table, ports=free_ports(table), durable=False) as stack:
        given = ask("GET", stack.urls["alpha"]).body["environment"]
        assert given["TALLY_NATS_URL"] == f"nats://127.0.0.1:{stack.places['nats'].port}"
        assert (folder / "nats" / "jetstream").exists()


def test_a_service_with_a_database_of_its_own_needs_no_embedded_one(folder: Path, dsn: Callable[[], str]) -> None:
    given = {f"TALLY_LOCAL_{name}_DATABASE_URL": dsn() for name in ("ALPHA", "BETA")}
    with a_stack(folder, env=given) as stack:
        assert stack.dsn("alpha") == given["TALLY_LOCAL_ALPHA_DATABASE_URL"]
        assert "postgres" not in stack.running()


def test_the_reference_deployment_answers_the_walkthrough(folder: Path) -> None:
    with LocalStack(folder, ports=free_ports(), durable=False) as stack:
        said: list[str] = []
        Demonstration(stack.places, said.append).run()
        assert said[-1].strip() == "All 16 steps answered as they should."


# What cannot work, in one sentence


@pytest.mark.parametrize(
    ("above", "variable"), [(0, "TALLY_LOCAL_BETA_PORT"), (ADMIN_OFFSET, "TALLY_LOCAL_BETA_ADMIN_PORT")]
)
def test_a_taken_port_is_named_with_who_has_it_before_anything_starts(folder: Path, above: int, variable: str) -> None:
    stack = a_stack(folder)
    port = stack.places["beta"].port + above
    with socket.create_server(("127.0.0.1", port)), pytest.raises(LocalError) as refused:
        stack.start()
    sentence = str(refused.value)
    assert sentence.startswith(f"Port {port} (the beta service's ")
    assert variable in sentence
    assert "TALLY_PORT_OFFSET=100" in sentence
    if sys.platform == "linux":
        assert f"process {os.getpid()} (" in sentence
    assert not (folder / "postgres").exists()


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (
            "fails",
            ["The alpha service stopped while it was starting (exit code 1)", "TALLY_STANDIN is not a good idea."],
        ),
        ("bad-migration", ["The alpha database did not migrate (exit code 1)", "0002_second.sql was changed"]),
        ("not-ready", ["The alpha service was not ready within 3 s", "its database is away", "alpha.log"]),
    ],
)
def test_a_service_that_does_not_come_up_is_explained_and_nothing_is_left(
    folder: Path, behaviour: str, words: list[str]
) -> None:
    stack = a_stack(folder, env={"TALLY_LOCAL_ALPHA_STANDIN": behaviour})
    before = set(psutil.Process().children(recursive=True))
    with pytest.raises(LocalError) as refused:
        stack.start(timeout_s=3)
    assert all(word in str(refused.value) for word in words)
    assert [process for process in psutil.Process().children(recursive=True) if process not in before] == []


BROKEN = (services.NATS, STANDINS[0])


@pytest.fixture(scope="module")
def kept() -> Iterator[Path]:
    """The folder of a stack that has run, with a stream."""
    with scratch_folder() as scratch:
        with LocalStack(scratch / ".tally", programs=BROKEN, ports=free_ports(BROKEN), durable=False) as stack:
            asyncio.run(_make_a_stream(stack.places["nats"].port))
        yield scratch / ".tally"


async def _make_a_stream(port: int) -> None:
    client = await nats.connect(f"nats://127.0.0.1:{port}")
    await client.jetstream().add_stream(name="KEPT", subjects=["kept"])
    await client.close()


def copied(kept: Path, folder: Path) -> None:
    """With its owners: PostgreSQL's files are not root's."""
    shutil.copytree(kept, folder)
    for path in folder.rglob("*"):
        owner = (kept / path.relative_to(folder)).stat()
        os.chown(path, owner.st_uid, owner.st_gid)


def without_tables(folder: Path) -> None:
    for file in (folder / "postgres" / "data").resolve().glob("base/*/*"):
        file.unlink()


def without_a_database(folder: Path) -> None:
    newest = max((folder / "postgres" / "data").resolve().glob("base/*"), key=lambda path: int(path.name))
    shutil.rmtree(newest)


def unreadable_stream(folder: Path) -> None:
    [file] = (folder / "nats").rglob("meta.inf")
    file.write_text("garbage")


def a_file_as_store(folder: Path) -> None:
    shutil.rmtree(folder / "nats" / "jetstream")
    (folder / "nats" / "jetstream").write_text("garbage")


def a_file_as_folder(folder: Path) -> None:
    shutil.rmtree(folder / "nats")
    (folder / "nats").write_text("garbage")


@pytest.mark.parametrize(
    ("damage", "cause", "remedy"),
    [
        (without_tables, "PostgreSQL", "or start afresh with `make reset-data`"),
        (without_a_database, "subdirectory", "or start afresh with `make reset-data`"),
        (unreadable_stream, "could not be recovered", "/nats: nothing is lost"),
        (a_file_as_store, "not a directory", "/nats: nothing is lost"),
        (a_file_as_folder, "nats is a file, and a folder is needed there", "move it away"),
    ],
)
def test_what_is_damaged_is_said_at_once_and_with_what_to_do(
    kept: Path, folder: Path, damage: Callable[[Path], None], cause: str, remedy: str
) -> None:
    copied(kept, folder)
    damage(folder)
    stack = LocalStack(folder, programs=BROKEN, ports=free_ports(BROKEN), durable=False)
    begun_s = time.monotonic()
    with pytest.raises(LocalError) as refused:
        stack.start()
    assert cause in str(refused.value)
    assert remedy in str(refused.value)
    assert time.monotonic() - begun_s < 20


def test_a_program_that_is_missing_is_named_with_how_to_get_it(folder: Path) -> None:
    gone = replace(NATS, command=("{bin}/no-such-program",))
    with pytest.raises(LocalError, match=r"^The nats service's program .*/no-such-program is missing: `make clean` "):
        LocalStack(folder, programs=(gone,), ports=free_ports((gone,))).start()


@pytest.mark.parametrize("file", ["service.pem", "jwks.json"])
def test_a_damaged_key_is_explained_before_anything_starts(folder: Path, file: str) -> None:
    token_variables(folder)
    (folder / "keys" / file).write_text("garbage")
    with pytest.raises(
        LocalError, match=r"^The key by which the services know each other is damaged .*delete the folder"
    ):
        a_stack(folder).start()


def test_a_key_of_another_pair_is_explained(folder: Path) -> None:
    token_variables(folder)
    token_variables(folder.with_name("other"))
    (folder.with_name("other") / "keys" / "jwks.json").replace(folder / "keys" / "jwks.json")
    with pytest.raises(LocalError, match="is none of those in"):
        token_variables(folder)


# `tally run`, as the process that a person starts


@contextmanager
def tally_run(folder: Path, *arguments: str, ports: Mapping[str, int]) -> Iterator["subprocess.Popen[str]"]:
    environment = {f"TALLY_LOCAL_{name.upper()}_PORT": str(port) for name, port in ports.items()}
    launcher = subprocess.Popen(
        [sys.executable, "-m", "tests.support.stacks", str(folder), *arguments],
        cwd=ROOT, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        yield launcher
    finally:
        with suppress(psutil.NoSuchProcess):
            for process in family(launcher.pid):
                process.kill()
        launcher.wait()
        assert launcher.stdout is not None
        launcher.stdout.close()


def ready(launcher: "subprocess.Popen[str]") -> dict[str, Any]:
    assert launcher.stdout is not None
    event = json.loads(launcher.stdout.readline())
    assert event["event"] == "ready", event
    return dict(event)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(folder: Path, number: signal.Signals) -> None:
    with tally_run(folder, ports=free_ports(STANDINS)) as launcher:
        told = ready(launcher)
        assert told["pids"].keys() == {"alpha", "beta", "gamma", "postgres"}
        processes = family(launcher.pid)
        launcher.send_signal(number)
        output, _ = launcher.communicate(timeout=30)
        assert (launcher.returncode, json.loads(output)) == (0, {"event": "stopped"})
    assert [process for process in processes if lives(process)] == []
    assert "database system is shut down" in (folder / "log" / "postgres.log").read_text()


def test_a_second_ctrl_c_kills(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLY_LOCAL_BETA_STANDIN", "deaf")
    with tally_run(folder, ports=free_ports(STANDINS)) as launcher:
        told = ready(launcher)
        processes = family(launcher.pid)
        launcher.send_signal(signal.SIGINT)
        until(lambda: not psutil.pid_exists(told["pids"]["gamma"]), "gamma, which is stopped first, is gone")
        asked = time.monotonic()
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=30)
        assert time.monotonic() - asked < 5
    assert [process for process in processes if lives(process)] == []


def test_nothing_outlives_a_launcher_that_is_killed_and_the_next_run_starts(folder: Path) -> None:
    ports = free_ports(STANDINS)
    with tally_run(folder, ports=ports) as launcher:
        told = ready(launcher)
        processes = family(launcher.pid)
        os.kill(told["pids"]["beta"], signal.SIGSTOP)
        launcher.kill()
        launcher.wait()
        with tally_run(folder, ports=ports) as second:  # at once: it waits until the first one's guardian is done
            assert ready(second)["pids"].keys() == told["pids"].keys()
            assert [process for process in processes if lives(process)] == []


def test_the_next_run_takes_over_when_even_the_guardian_was_killed(folder: Path) -> None:
    ports = free_ports(STANDINS)
    with tally_run(folder, ports=ports) as launcher:
        told = ready(launcher)
        postgres = psutil.Process(told["pids"]["postgres"])
        everything = family(launcher.pid)
        for process in everything:
            if process.pid != postgres.pid and process.parent() != postgres:
                process.kill()
        launcher.wait()
        assert lives(postgres)
        with tally_run(folder, ports=ports) as second:
            ready(second)
            assert not lives(postgres)


def test_on_the_screen_there_are_addresses_and_log_lines_with_the_services_name(folder: Path) -> None:
    ports = free_ports(STANDINS)
    with tally_run(folder, "--screen", ports=ports) as launcher:
        shown = read_until(launcher, "Ctrl-C stops everything")
        ask("GET", f"http://127.0.0.1:{ports['beta']}/log?hello")
        line = read_until(launcher, "hello")
        launcher.send_signal(signal.SIGINT)
        output, _ = launcher.communicate(timeout=30)
    assert shown.startswith("Starting PostgreSQL, for the first time, and alpha, beta, gamma")
    assert f"alpha        http://127.0.0.1:{ports['alpha']}" in shown
    line = line.splitlines()[-1]
    assert line.startswith("beta     │ ")
    assert line.endswith("info    said text=hello")
    assert "stopped; the data stays" in output


def read_until(launcher: "subprocess.Popen[str]", text: str) -> str:
    assert launcher.stdout is not None
    read = ""
    for line in launcher.stdout:
        read += line
        if text in line:
            return read
    raise AssertionError(f"it ended before it said {text!r}: {read}")
