"""Golden files: what is generated and kept, so that a review sees how it changed. `make golden` writes them anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare ``content`` with the file at ``path`` (from the root of the project), or write it."""

    def check(path: str, content: str) -> None:
        file = ROOT / path
        if request.config.getoption("--golden", default=False):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
        assert file.read_text() == content, f"{path} is out of date: run `make golden` and look at the difference"

    return check
