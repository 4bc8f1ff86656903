"""An event loop whose clock jumps to the next timer instead of sleeping.

Tests on it are exact, take no time, and one that waits for ever fails at once.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")


class _JumpingSelector(selectors.SelectSelector):
    """Never blocks: where the loop would sleep, its clock moves instead."""

    now_s = 100.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("nothing is scheduled and nothing is ready: this would wait for ever")
            self.now_s += max(0.0, timeout)
        return list(ready)


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run_virtually(main: Callable[[], Awaitable[T]]) -> T:
    async def begin() -> T:
        return await main()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(begin())
