"""All of `make run`, stopped in order and started again on the same folder: nothing that was told is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import nats

from tally.local.ask import ask
from tally.local.operator import Operator
from tally.local.stack import LocalStack, free_ports
from tally.messaging.stream import STREAM
from tests.integration.statements.stage import Stage, until
from tests.support.folders import scratch_folder

PATIENCE_S = 40.0


@dataclass(frozen=True)
class Kept:
    """What others than the owners hold."""

    events: list[bytes]
    """Of the stream, in its order."""
    view: dict[str, Any]
    """The digests of the directory's tables."""
    shown: list[str]
    """The operations that the directory shows of the author."""
    mails: list[tuple[str, str]]
    """Each mail's Message-ID and recipient."""


class Running:
    """A stack that runs, and what it holds."""

    def __init__(self, stack: LocalStack) -> None:
        self.stage = Stage(stack)
        self._stack = stack
        self._operator = Operator(stack.places, stack.folder)

    def author(self, full_name: str, email: str) -> str:
        answer = ask("POST", f"{self._stack.urls['author']}/author", {"full_name": full_name, "email": email})
        assert answer.status == 201, answer.says()
        return str(answer.body["id"])

    def mailed(self, operation: str) -> bool:
        return operation in [item["operation"] for item in self._mails()]

    def shown(self, author: str) -> list[str]:
        answer = ask("GET", f"{self._stack.urls['directory']}/author/{UUID(author)}/attendance")
        return [item["operation"] for item in answer.body["items"]] if answer.status == 200 else []

    def followed(self, author: str, operation: str) -> None:
        """Return when the directory shows the operation, and its mail has come."""
        until(lambda: operation in self.shown(author), "the directory shows it", PATIENCE_S)
        until(lambda: self.mailed(operation), "its mail has come", PATIENCE_S)

    def kept(self, author: str) -> Kept:
        mails = [(mail["message_id"], mail["to"]) for mail in self._mails()]
        return Kept(asyncio.run(self._events()), self._operator.digest(), self.shown(author), mails)

    def _mails(self) -> list[dict[str, Any]]:
        return list(ask("GET", f"{self._stack.admin_urls['mail']}/mail").body["items"])

    async def _events(self) -> list[bytes]:
        client = await nats.connect(self._stack.environment("author")["TALLY_STREAM_URL"])
        try:
            context = client.jetstream()
            last = (await context.stream_info(STREAM)).state.last_seq
            return [(await context.get_msg(STREAM, n, direct=False)).data or b"" for n in range(1, last + 1)]
        finally:
            await client.close()


def test_a_stack_that_is_started_again_still_holds_its_events_its_view_and_its_mails() -> None:
    ports = free_ports()
    with scratch_folder() as folder:
        with started(folder, ports) as first:
            author, event = first.author("Grace Hopper", "grace@example.org"), first.stage.event()
            operation = first.stage.created(event, author)
            first.followed(author, operation)
            before = first.kept(author)
        with started(folder, ports) as second:
            after = second.kept(author)
            # And it goes on where it was: what is told now comes after what was told then.
            another = second.stage.created(second.stage.event(), author)
            second.followed(author, another)
            later = second.kept(author)
    assert before.shown == [operation]
    assert [to for _, to in before.mails] == ["Grace Hopper <grace@example.org>"]
    # The gateway tells of its operations a little later than the owners, so the stream may have grown by that.
    assert after.events[: len(before.events)] == before.events
    assert (after.view, after.shown, after.mails) == (before.view, before.shown, before.mails)
    assert later.events[: len(after.events)] == after.events
    assert sorted(later.shown) == sorted([operation, another])
    assert later.mails[-len(before.mails) :] == before.mails
    assert len({id for id, _ in later.mails}) == len(later.mails) == 2


@contextlib.contextmanager
def started(folder: Path, ports: dict[str, int]) -> Iterator[Running]:
    with LocalStack(folder / ".tally", ports=ports, supervise=False, durable=False) as stack:
        yield Running(stack)
