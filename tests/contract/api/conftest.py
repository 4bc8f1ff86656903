"""One stack of all services for the whole folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tally.local.stack import LocalStack, free_ports


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    with LocalStack(tmp_path_factory.mktemp("api"), ports=free_ports(), durable=False) as running:
        yield running
