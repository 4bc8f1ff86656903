"""`deployment`: the package's one stack, healed before each test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tally.local.stack import LocalStack, free_ports
from tests.integration.resilience.deployment import Deployment, deployed
from tests.support.folders import scratch_folder
from tests.support.stacks import CORE

ENVIRONMENT = {"TALLY_FAULTS": "on", "TALLY_ACCESS_LOG": "all", "TALLY_SETTLE_LAG_S": "2.0"}


@pytest.fixture(scope="package")
def stack() -> Iterator[LocalStack]:
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally", programs=CORE, ports=free_ports(CORE), env=ENVIRONMENT, supervise=False, durable=False
        ) as stack,
    ):
        yield stack


@pytest.fixture
async def deployment(stack: LocalStack) -> AsyncIterator[Deployment]:
    async with deployed(stack) as deployment:
        await deployment.healed()
        yield deployment
