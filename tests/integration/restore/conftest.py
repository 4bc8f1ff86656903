"""One stack for the whole folder: what a test restores is whole again when it ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tally.local.stack import LocalStack
from tests.integration.restore.stacks import running
from tests.support.folders import scratch_folder


@pytest.fixture(scope="package")
def stack() -> Iterator[LocalStack]:
    with running() as stack:
        yield stack


@pytest.fixture
def folder() -> Iterator[Path]:
    with scratch_folder() as made:
        yield made
