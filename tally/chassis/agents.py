"""Agents: what a service does beside answering, for as long as it runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any


@asynccontextmanager
async def working(*agents: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """They work for the block; the one that was named last ends first. One that dies takes the block, and with it the
    process, along: a service that half works helps nobody."""
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for agent in agents:
            stack.push_async_callback(end, tasks.create_task(agent(), name=agent.__qualname__))
        yield


async def end(task: asyncio.Task[None]) -> None:
    """Cancel it until it has ended. Libraries lose a cancel that arrives together with what they wait for: wait_for
    does, before Python 3.12."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.1)
