"""`tally env`: what a shell needs to ask the local databases: PostgreSQL's programs, the superuser, and the addresses.

    eval "$(tally env)"
    psql "$AUTHOR_DATABASE_URL"         # as the service
    pg_dump --format=custom author      # as the superuser

Assumes the folder of a stack that has run: the passwords and the last port are there.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from tally.local.binaries import programs
from tally.local.cluster import SUPERUSER, Cluster
from tally.local.failure import LocalError
from tally.local.processes import LOOPBACK
from tally.local.services import SERVICES
from tally.local.stack import POSTGRES


def exports(folder: Path, environ: Mapping[str, str] = os.environ) -> str:
    """One `export` a line, for a shell to read; it holds passwords, as the folder does."""
    cluster = Cluster(folder / POSTGRES)
    if not (port := cluster.port()):
        raise LocalError(f"No PostgreSQL has run from {folder}: start it with `make run` in another terminal.")
    server = {
        "PGHOST": LOOPBACK,
        "PGPORT": str(port),
        "PGUSER": SUPERUSER,
        "PGPASSWORD": cluster.password(SUPERUSER),
        **dict(_addresses(cluster, port, environ)),
    }
    lines = [f"export PATH={shlex.quote(str(programs(None, environ).folder))}:$PATH"]
    return "\n".join([*lines, *(f"export {name}={shlex.quote(value)}" for name, value in server.items())])


def _addresses(cluster: Cluster, port: int, environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """`AUTHOR_DATABASE_URL` and the like, as the services get them."""
    for program in SERVICES:
        name = f"{program.name.upper()}_DATABASE_URL"
        if chosen := environ.get(f"{program.variable}DATABASE_URL"):
            yield name, chosen
        elif program.migrate is not None:
            with suppress(KeyError):  # it has never run from this folder
                password = cluster.password(program.name)
                yield name, f"postgresql://{program.name}:{password}@{LOOPBACK}:{port}/{program.name}"
