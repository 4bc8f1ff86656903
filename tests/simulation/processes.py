"""Hosts, and the processes that live on them, one life after the other.

A process that crashes takes no further step: its tasks end where they are, at any await, and what they would
have done next is not done. What a host keeps between lives is its clock, and its database if it has one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tests.simulation.clocks import SkewedClock
from tests.simulation.loop import OWNER, VirtualLoop

Result = TypeVar("Result")

#: The number of the client's request that a task works for.
REQUEST: ContextVar[int | None] = ContextVar("REQUEST", default=None)

#: What a caller gets from a process that died before it answered.
GONE = object()


class Process:
    """One life of a host's program: tasks that die together."""

    def __init__(self, loop: VirtualLoop, name: str, escaped: Callable[[str, BaseException], None]) -> None:
        self.loop = loop
        self.name = name
        self.alive = True
        self.program: Any = None
        self.context = copy_context()
        self.context.run(OWNER.set, self)
        self._escaped = escaped
        self._tasks: dict[asyncio.Task[Any], Context] = {}
        self._callers: dict[asyncio.Future[Any], None] = {}

    @property
    def tasks(self) -> tuple[asyncio.Task[Any], ...]:
        return tuple(self._tasks)

    def adopt(self, task: asyncio.Task[Any], context: Context) -> None:
        self._tasks[task] = context
        task.add_done_callback(self._ended, context=self.context)

    def spawn(self, work: Coroutine[Any, Any, Result], request: int | None = None) -> asyncio.Task[Result]:
        context = self.context.copy()
        context.run(REQUEST.set, request)
        return self.loop.create_task(work, context=context)

    def call_soon(self, callback: Callable[..., Any], *arguments: Any) -> None:
        self.loop.call_soon(callback, *arguments, context=self.context)

    async def serve(self, work: Coroutine[Any, Any, Result], request: int) -> Result | object:
        """Do ``work`` in this process for a caller in another: its result, or GONE if this process dies first."""
        answer: asyncio.Future[Result | object] = self.loop.create_future()
        self._callers[answer] = None
        task = self.spawn(work, request)
        task.add_done_callback(lambda task: _pass_on(task, answer), context=self.context)
        try:
            return await answer
        except asyncio.CancelledError:
            self.call_soon(task.cancel)  # the caller hangs up
            raise
        finally:
            self._callers.pop(answer, None)

    def kill(self) -> None:
        """Stop at once. The tasks' clean-up code runs, so that nothing is left lying about, but has no effect."""
        self.alive = False
        for task, context in self._tasks.items():
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(RuntimeError):  # it tried to await in its clean-up
                context.run(task.get_coro().close)
        self._tasks.clear()
        for caller in self._callers:
            if not caller.done():
                caller.set_result(GONE)

    def cancel(self) -> None:
        """Be told to stop: every task is cancelled where it waits."""
        for task in self.tasks:
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._escaped(self.name, error)

    def __repr__(self) -> str:
        return f"<Process {self.name} {'alive' if self.alive else 'dead'} tasks={len(self._tasks)}>"


def _pass_on(task: asyncio.Task[Any], answer: asyncio.Future[Any]) -> None:
    if answer.done():
        return
    failed = task.cancelled() or task.exception() is not None
    answer.set_result(GONE if failed else task.result())


@dataclass
class Host:
    """Where a program runs; ``boot`` starts it in a new process and returns what others may call."""

    name: str
    loop: VirtualLoop
    clock: SkewedClock
    boot: Callable[[Process], Any]
    escaped: Callable[[str, BaseException], None]
    process: Process = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def up(self) -> bool:
        return self.process.alive

    def start(self) -> None:
        self.process = Process(self.loop, self.name, self.escaped)
        self.process.program = self.boot(self.process)

    def __repr__(self) -> str:
        return f"<Host {self.name} {'up' if self.up else 'down'}>"
