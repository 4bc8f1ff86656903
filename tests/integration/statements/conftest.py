"""One stack for the whole folder, because starting it takes longer than most tests; nobody restarts who is stopped."""

from collections.abc import Iterator

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.integration.statements.stage import Stage
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE


@pytest.fixture(scope="package")
def stack() -> Iterator[LocalStack]:
    with (
        scratch_folder() as folder,
        LocalStack(folder / ".tally", programs=CORE, ports=free_ports(CORE), supervise=False, durable=False) as running,
    ):
        yield running


@pytest.fixture(scope="package")
def stage(stack: LocalStack) -> Stage:
    return Stage(stack)
