"""A whole stack for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.integration.statements.stage import Stage
from tests.support.folders import scratch_folder


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    with (
        scratch_folder() as folder,
        LocalStack(folder / ".tally", ports=free_ports(), supervise=False, durable=False) as running,
    ):
        yield Stage(running)
