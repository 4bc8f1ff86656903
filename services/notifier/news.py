"""What events mean to the people they are about: keeps the replica, and notes the mails that are to be sent.

Assumes the inbox's transaction: the replica, the mails and the inbox's own record are changed together, or not at all.
Events come once each, usually in the order of the stream; where they don't, (incarnation, version) keeps the replica
from going back, and a mail that needs an author who is not known yet waits for that author.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from uuid import UUID, uuid5

from tally.chassis.clock import Clock, utc
from tally.chassis.database import Connection
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals
from tally.messaging.event import PREFIX, Event
from tally.messaging.inbox import Delivered

SUBJECTS: Final = (
    f"{PREFIX}.author.>",
    f"{PREFIX}.conference.>",
    f"{PREFIX}.event.>",
    f"{PREFIX}.attendance.>",
    f"{PREFIX}.operation.rejected.>",
)
KINDS: Final = ("confirmed", "cancelled", "rejected", "changed")
queries: Final = load_queries(files("services.notifier").joinpath("replica.sql"))


class News:
    """Applies events; ``noted`` is called when there are mails to send."""

    def __init__(self, signals: Signals, clock: Clock, *, horizon_s: float, noted: Callable[[], None]) -> None:
        """Events older than ``horizon_s`` when they come are no news: they fill the replica, and nobody gets a mail.
        (A notifier that begins with an empty database reads the whole stream.)"""
        self._signals = signals
        self._clock = clock
        self._horizon_s = horizon_s
        self._noted = noted
        self._on: Mapping[str, Callable[[Connection, Event], Awaitable[None]]] = {
            "author": self._author,
            "conference": self._conference,
            "event": self._event,
            "attendance": self._attendance,
            "operation": self._rejected,
        }

    async def apply(self, tx: Connection, delivered: Sequence[Delivered]) -> None:
        for one in delivered:
            await self._on[one.event.entity](tx, one.event)
        self._noted()

    async def _author(self, tx: Connection, event: Event) -> None:
        deleted_at = event.time if event.change == "deleted" else None
        data = event.data
        await tx.execute(queries.put_author, *_key(event), data["full_name"], data.get("email"), deleted_at)

    async def _conference(self, tx: Connection, event: Event) -> None:
        await tx.execute(queries.put_conference, *_key(event), event.data["acronym"])

    async def _event(self, tx: Connection, event: Event) -> None:
        data, starts_at = event.data, _moment(event.data.get("starts_at"))
        before = await tx.fetchrow(queries.event, *_key(event))
        await tx.execute(
            queries.put_event, *_key(event), UUID(data["conference_id"]), data["seq"], data.get("title"), starts_at
        )
        if before is None or event.change == "deleted":
            return
        if (before["title"], before["starts_at"]) != (data.get("title"), starts_at):
            change = {"title": before["title"], "starts_at": before["starts_at"]}
            for row in await tx.fetch(queries.attendances, event.subject):
                of = f"{event.entityversion}.{event.incarnation}"
                await self._note(tx, event, "changed", row["operation"], row["author"], event.subject, of, change)

    async def _attendance(self, tx: Connection, event: Event) -> None:
        author, attended = UUID(event.data["author"]), UUID(event.data["event"])
        live = event.change == "confirmed"
        await tx.execute(queries.put_attendance, *_key(event), author, attended, live)
        kind = "confirmed" if live else "cancelled"
        why = {"reason": event.data.get("reason")}
        await self._note(tx, event, kind, event.subject, author, attended, "", {} if live else why)

    async def _rejected(self, tx: Connection, event: Event) -> None:
        author, attended = UUID(event.data["author"]), UUID(event.data["event"])
        why = {"code": event.data["code"], "detail": event.data["detail"]}
        await self._note(tx, event, "rejected", event.subject, author, attended, "", why)

    async def _note(
        self,
        tx: Connection,
        event: Event,
        kind: str,
        operation: UUID,
        author: UUID,
        attended: UUID,
        of: str,
        data: dict[str, Any],
    ) -> None:
        old = event.time < _now(self._clock) - timedelta(seconds=self._horizon_s)
        state, reason = ("suppressed", "too-old") if old else ("waiting", None)
        id = mail_id(operation, kind, of)
        noted = await tx.fetchval(
            queries.note, id, operation, kind, of, author, attended, data, event.time, event.traceparent, state, reason
        )
        if noted is not None and old:
            self._signals.mails_total(kind, "suppressed").inc()


def mail_id(operation: UUID, kind: str, of: str) -> UUID:
    """The mail's id: the same for the same mail, whoever notes it and when."""
    return uuid5(operation, f"{kind}.{of}" if of else kind)


def _key(event: Event) -> tuple[UUID, UUID, int]:
    return (event.subject, event.incarnation, event.entityversion)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _now(clock: Clock) -> datetime:
    return utc(clock.now_ms())
