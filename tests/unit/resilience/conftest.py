from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .virtual_time import run_virtually


@pytest.fixture
def virtual() -> Callable[[Callable[[], Awaitable[Any]]], Any]:
    """Runs a coroutine function on a loop whose clock jumps (see `virtual_time`)."""
    return run_virtually
