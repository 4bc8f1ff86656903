"""Cluster: the folder of one PostgreSQL cluster. Makes it, checks it, deletes it; the server is `EmbeddedPostgres`.

    folder/data            the cluster (for root below a private home: a link to a folder that `nobody` can reach)
    folder/port            the port, kept from run to run
    folder/passwords.json  a generated password per role, readable by the owner only

A cluster is made beside its place and renamed into it when it is complete, so `data` is whole or absent: a run that was
killed half-way leaves nothing to mend, and no data that exists is ever deleted to make room.
"""

import json
import os
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tally.local.binaries import Account, Programs, roots_folder
from tally.local.failure import LocalError
from tally.local.processes import PORTS, number_in

SUPERUSER = "postgres"
AFRESH = "or start afresh with `make reset-data` (the local data is lost)"
# Before this version PostgreSQL has no locale of its own; the system's `C` is the only one that is everywhere.
BUILTIN_LOCALE_SINCE = 17


class Cluster:
    """`exists`, or `initialise`; then `check`, which says in a sentence what PostgreSQL would say in its log."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"

    def exists(self) -> bool:
        if self.data.is_symlink():
            target = self.data.readlink()
            if not target.exists():
                raise LocalError(
                    f"The data folder {self.data} points to {target}, which is gone: bring it back, {AFRESH}."
                )
            if target.parent.name != self._elsewhere():
                raise LocalError(
                    f"The data folder {self.data} points to {target}, which is another folder's (this one is a copy): "
                    f"put a copy of the data there, {AFRESH}."
                )
        return self.data.exists()

    def initialise(self, programs: Programs, account: Account | None, *, durable: bool) -> None:
        """Make the cluster in `new`, then rename: `data` exists only when it is complete."""
        home = self._home(account)
        new = home / "new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        password = secrets.token_urlsafe(24)
        with tempfile.NamedTemporaryFile("w", dir=home, prefix="password-") as secret:
            secret.write(password)
            secret.flush()
            if account:
                os.chown(new, account.uid, account.gid)
                os.chown(secret.name, account.uid, account.gid)
            options = [f"--pgdata={new}", f"--username={SUPERUSER}", f"--pwfile={secret.name}", "--auth=scram-sha-256"]
            options += ["--encoding=UTF8", "--no-locale", "--data-checksums", "--no-instructions"]
            if programs.major >= BUILTIN_LOCALE_SINCE:
                options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if not durable:
                options += ["--no-sync"]
            done = subprocess.run(
                [programs.path("initdb"), *options],
                capture_output=True,
                text=True,
                check=False,
                **surroundings(account),
            )
        if done.returncode != 0:
            raise LocalError(f"PostgreSQL could not make its data folder {new}: {_error(done.stderr)}")
        self._write_passwords({SUPERUSER: password})
        new.rename(home / "data")
        if home != self.folder:
            self.data.symlink_to(home / "data")

    def check(self, programs: Programs) -> None:
        try:
            major = (self.data / "PG_VERSION").read_text(errors="replace").strip()
        except FileNotFoundError:
            raise self._damaged("PG_VERSION is missing") from None
        except NotADirectoryError:
            raise self._damaged("it is a file") from None
        except PermissionError:
            raise LocalError(
                f"The data folder {self.data} belongs to user {self.data.stat().st_uid}: run Tally as that user, "
                f"{AFRESH}."
            ) from None
        except OSError as error:
            raise self._damaged(f"PG_VERSION cannot be read, {error.strerror}") from None
        if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3})?", major):
            raise self._damaged("PG_VERSION is no version")
        if major != str(programs.major):
            raise LocalError(
                f"The data folder {self.data} was made by PostgreSQL {major} and this is {programs.version}: set "
                f"TALLY_LOCAL_POSTGRES_BIN to the programs of PostgreSQL {major}, {AFRESH}."
            )
        if SUPERUSER not in self._passwords():
            how = "damaged" if self._passwords_file.exists() else "missing"
            raise LocalError(f"{self._passwords_file} is {how}: restore it from a backup, {AFRESH}.")

    def _damaged(self, how: str) -> LocalError:
        return LocalError(f"The data folder {self.data} is damaged ({how}): restore it from a backup, {AFRESH}.")

    def destroy(self) -> None:
        """Delete it with everything in it. No server may run on it."""
        if self.data.is_symlink() and (home := self.data.readlink().parent).name == self._elsewhere():
            shutil.rmtree(home, ignore_errors=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    # The last port

    def port(self) -> int:
        """The port of the last run; 0 if there was none, or the file is damaged."""
        try:
            port = number_in((self.folder / "port").read_text(errors="replace"))
        except OSError:
            return 0
        return port if port in PORTS else 0

    def keep_port(self, port: int) -> None:
        (self.folder / "port").write_text(f"{port}\n")

    # Passwords

    def password(self, role: str) -> str:
        """A role's password; KeyError if it has none."""
        return self._passwords()[role]

    def make_password(self, role: str) -> str:
        """A role's password, made if there is none."""
        passwords = self._passwords()
        if role not in passwords:
            passwords[role] = secrets.token_urlsafe(24)
            self._write_passwords(passwords)
        return passwords[role]

    @property
    def _passwords_file(self) -> Path:
        return self.folder / "passwords.json"

    def _passwords(self) -> dict[str, str]:
        try:
            return msgspec.json.decode(self._passwords_file.read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            # (Neither error says what is in the file, which is secret.)
            raise LocalError(
                f"{self._passwords_file} is damaged ({error}): restore it from a backup, {AFRESH}."
            ) from None

    def _write_passwords(self, passwords: dict[str, str]) -> None:
        part = self._passwords_file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(passwords, file, indent=1)
        part.rename(self._passwords_file)

    # Where root keeps it

    def _home(self, account: Account | None) -> Path:
        """Where the cluster is made: our folder, or for root, where `nobody` cannot reach it, one of root's own."""
        if account is None or account.reaches(self.folder):
            return self.folder
        home = roots_folder(self._elsewhere())
        # A folder that had our number before was deleted, and the passwords with it: nobody can use this any more.
        shutil.rmtree(home / "data", ignore_errors=True)
        return home

    def _elsewhere(self) -> str:
        """Names our folder wherever it is moved, and never a copy of it."""
        found = self.folder.stat()
        return f"data-{found.st_dev:x}-{found.st_ino:x}"


def make_folder(folder: Path) -> None:
    """A folder of ours that PostgreSQL's account can pass through, whatever the umask. One that exists stays as it
    is.
    """
    if not folder.exists():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        folder.chmod(0o755)
    elif not folder.is_dir():
        raise LocalError(
            f"{folder} is a file, and a folder is needed there: move it away, or name another folder with "
            "TALLY_LOCAL_FOLDER=…."
        )


def surroundings(account: Account | None, **environment: str) -> dict[str, Any]:
    """How PostgreSQL's programs are run: by whom, out of reach of a Ctrl-C at the terminal, and with nothing of the
    user's environment, for a PGDATA or PGOPTIONS that is meant for another server must not reach ours.
    """
    return {
        "env": {"PATH": os.defpath, "LC_ALL": "C", **environment},
        "cwd": "/",
        "start_new_session": True,
        **(account.as_popen() if account else {}),
    }


def _error(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if "error" in line or "FATAL" in line), text.strip())
