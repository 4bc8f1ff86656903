"""A whole stack, for the tests with real processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.support.folders import scratch_folder


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    """Everything that `make run` starts, on free ports."""
    with scratch_folder() as folder, LocalStack(folder, ports=free_ports(), durable=False) as running:
        yield running
