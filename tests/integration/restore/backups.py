"""Backups as operators make them: a dump of one database, or a copy of a stopped server's volume."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tally.local.binaries import programs
from tally.local.cluster import SUPERUSER
from tally.local.postgres import EmbeddedPostgres
from tally.local.processes import LOOPBACK


def environment(server: EmbeddedPostgres) -> dict[str, str]:
    """For PostgreSQL's own programs, as the superuser."""
    return {
        "PATH": f"{programs(None).folder}{os.pathsep}{os.environ['PATH']}",
        "PGHOST": LOOPBACK,
        "PGPORT": str(server.port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": server.cluster.password(SUPERUSER),
    }


def dump(server: EmbeddedPostgres, database: str, file: Path) -> Path:
    _run(server, "pg_dump", "--format=custom", f"--file={file}", database)
    return file


def restore(server: EmbeddedPostgres, database: str, file: Path) -> None:
    """Over what is there. The service must not run."""
    server.execute(f"DROP DATABASE {database} WITH (FORCE)")
    server.execute(f"CREATE DATABASE {database} OWNER {database}")
    _run(server, "pg_restore", "--exit-on-error", f"--dbname={database}", str(file))


def copy_volume(server: EmbeddedPostgres, to: Path) -> Path:
    """The data folder as it is, owners and all. The server must not run."""
    if to.exists():
        shutil.rmtree(to)
    subprocess.run(["cp", "-a", str(server.data.resolve()), str(to)], check=True)
    return to


def put_volume_back(server: EmbeddedPostgres, copy: Path) -> None:
    """The server must not run."""
    data = server.data.resolve()
    shutil.rmtree(data)
    subprocess.run(["cp", "-a", str(copy), str(data)], check=True)


def _run(server: EmbeddedPostgres, program: str, *arguments: str) -> None:
    done = subprocess.run(
        [program, *arguments],
        env=environment(server),
        executable=programs(None).path(program),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
