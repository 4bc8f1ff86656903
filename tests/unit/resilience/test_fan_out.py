from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import pytest

from tally.resilience.deadline import Deadline
from tally.resilience.fan_out import Answered, Overdue, Raised, fan_out

T = TypeVar("T")
Virtual = Callable[[Callable[[], Awaitable[T]]], T]


def after(seconds: float, value: str) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        await asyncio.sleep(seconds)
        return value

    return call


def test_all_run_at_once_and_each_outcome_says_how_long_it_took(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        outcomes = await fan_out(
            {"author": after(0.3, "a"), "conference": after(0.2, "b")},
            deadline=Deadline.after(2.0, loop.time()),
            clock=loop.time,
        )
        assert list(outcomes) == ["author", "conference"]
        assert outcomes["author"] == Answered("a", pytest.approx(0.3))  # type: ignore[arg-type]
        assert outcomes["conference"] == Answered("b", pytest.approx(0.2))  # type: ignore[arg-type]
        assert loop.time() - begun_s == pytest.approx(0.3)

    virtual(main)


def test_the_failure_of_one_is_a_value_and_hides_no_other_answer(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop, error = asyncio.get_running_loop(), ConnectionResetError("gone")

        async def fail() -> str:
            raise error

        outcomes = await fan_out(
            {"author": fail, "conference": after(0.2, "b")},
            deadline=Deadline.after(2.0, loop.time()),
            clock=loop.time,
        )
        assert outcomes["author"] == Raised(error, 0.0)
        assert isinstance(outcomes["conference"], Answered)

    virtual(main)


def test_what_is_silent_at_the_deadline_is_cancelled_and_overdue(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop, cancelled = asyncio.get_running_loop(), []

        async def hang() -> str:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                cancelled.append(loop.time())
                raise
            return "never"

        begun_s = loop.time()
        outcomes = await fan_out(
            {"author": hang, "conference": after(0.2, "b")},
            deadline=Deadline.after(2.0, begun_s),
            clock=loop.time,
            grace_s=0.1,
        )
        assert outcomes["author"] == Overdue(pytest.approx(2.1))  # type: ignore[arg-type]
        assert isinstance(outcomes["conference"], Answered)
        assert cancelled == [pytest.approx(begun_s + 2.1)]

    virtual(main)


def test_the_grace_lets_calls_keep_the_deadline_themselves(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        outcomes = await fan_out(
            {"author": after(2.0, "just in time")}, deadline=Deadline.after(2.0, loop.time()), clock=loop.time
        )
        assert isinstance(outcomes["author"], Answered)

    virtual(main)


def test_an_expired_deadline_still_gives_an_outcome_for_each(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        outcomes = await fan_out({"author": after(1.0, "a")}, deadline=Deadline(0.0), clock=loop.time)
        assert isinstance(outcomes["author"], Overdue)

    virtual(main)


def test_no_calls_have_no_outcomes_and_never_is_a_deadline(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await fan_out({}, deadline=Deadline.never(), clock=loop.time) == {}
        outcomes = await fan_out({1: after(50.0, "a")}, deadline=Deadline.never(), clock=loop.time)
        assert isinstance(outcomes[1], Answered)

    virtual(main)


def test_a_cancelled_caller_leaves_no_child_behind(virtual: Virtual[None]) -> None:
    """Not even one that takes its time to end, nor if the caller is cancelled again meanwhile."""

    async def main() -> None:
        loop, ended = asyncio.get_running_loop(), []

        async def stubborn() -> str:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(1.0)
                ended.append("stubborn")
            return "never"

        async def quick() -> str:
            try:
                await asyncio.sleep(3600)
            finally:
                ended.append("quick")
            return "never"

        caller = asyncio.ensure_future(fan_out({"a": stubborn, "b": quick}, deadline=Deadline.never(), clock=loop.time))
        await asyncio.sleep(0.1)
        caller.cancel()
        await asyncio.sleep(0.1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert sorted(ended) == ["quick", "stubborn"]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    virtual(main)


def test_a_cancellation_while_the_last_children_end_waits_for_them_and_is_not_forgotten(
    virtual: Virtual[None],
) -> None:
    async def main() -> None:
        loop, ended = asyncio.get_running_loop(), []

        async def stubborn() -> str:
            try:
                await asyncio.sleep(3600)
            finally:
                await asyncio.sleep(1.0)
                ended.append(loop.time())
            return "never"

        caller = asyncio.ensure_future(
            fan_out({"a": stubborn}, deadline=Deadline.after(0.5, loop.time()), clock=loop.time)
        )
        await asyncio.sleep(1.0)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        assert len(ended) == 1

    virtual(main)


def test_a_child_that_cancels_itself_is_overdue_and_does_not_cancel_us(virtual: Virtual[None]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def give_up() -> str:
            raise asyncio.CancelledError

        outcomes = await fan_out(
            {"a": give_up, "b": after(0.1, "b")}, deadline=Deadline.after(1.0, loop.time()), clock=loop.time
        )
        assert isinstance(outcomes["a"], Overdue)
        assert isinstance(outcomes["b"], Answered)

    virtual(main)
