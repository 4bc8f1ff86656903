"""Folders for tests that start servers.

pytest's `tmp_path` lies below a folder that only its owner can enter, and PostgreSQL, which root must run as somebody
else, could not reach it.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder that every account can pass through, deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="tally-test-"))
    os.chmod(folder, 0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
