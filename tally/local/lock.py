"""One stack per folder.

The lock file's descriptor is given to the guardian as well, so the folder stays locked until everything that ran in it
is gone, even if the launcher was killed.
"""

import fcntl
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from tally.local.cluster import make_folder
from tally.local.failure import LocalError
from tally.local.guardian import PATIENCE_S
from tally.local.processes import alive, pid_in

POLL_S = 0.05
# The guardian of a run that was killed takes this long at most: two stages of services, then PostgreSQL.
GUARDIAN_DONE_S = 3 * PATIENCE_S + 1


class FolderLock:
    """`with FolderLock(folder): …`; a `LocalError` if another run holds it."""

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder
        try:
            self._file = (folder / "lock").open("a+", errors="replace")
        except OSError as error:
            raise LocalError(
                f"{folder / 'lock'} cannot be opened ({error.strerror}): delete it if it is not what Tally made, or "
                "run Tally as the user whose it is."
            ) from error

    def __enter__(self) -> Self:
        self.take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def take(self, between: Callable[[], None] = lambda: None) -> None:
        """Take it, or wait while only a guardian is left; `between` is called meanwhile and may raise."""
        give_up = time.monotonic() + GUARDIAN_DONE_S
        while not self._try():
            between()
            holder = self._holder()
            if (holder and alive(holder)) or time.monotonic() > give_up:
                self._file.close()
                who = f" (process {holder})" if holder else ""
                raise LocalError(
                    f"Tally already runs from {self._folder}{who}: use it as it is, with `make demo` for example, or "
                    "stop it there with Ctrl-C."
                )
            time.sleep(POLL_S)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

    def _holder(self) -> int:
        """0 if the file does not say."""
        self._file.seek(0)
        return pid_in(self._file.read())
