"""What the owners would tell: events of a small world, with ids and versions as the owners make them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from tally.messaging.event import Event
from tally.protocol import operation

BEGIN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
INCARNATION = UUID("00000000-0000-7000-8000-000000000000")


@dataclass
class Telling:
    """Collects events; each is told a second after the one before."""

    events: list[Event] = field(default_factory=list)
    _seconds: Any = field(default_factory=itertools.count)
    _versions: dict[UUID, int] = field(default_factory=dict)

    def author(self, full_name: str) -> UUID:
        id = uuid4()
        self.tell("author.created", id, {"id": id, "full_name": full_name, "email": f"{id}@example.org"})
        return id

    def rename(self, author: UUID, full_name: str) -> None:
        self.tell("author.updated", author, {"id": author, "full_name": full_name, "email": None})

    def conference(self, acronym: str, name: str | None = None) -> UUID:
        id = uuid4()
        self.tell("conference.created", id, {"id": id, "acronym": acronym, "name": name})
        return id

    def event(self, conference: UUID, seq: int, *, title: str | None = None, starts_at: datetime | None = None) -> UUID:
        id = uuid4()
        data = {"id": id, "conference_id": conference, "seq": seq, "title": title, "capacity": None}
        self.tell("event.created", id, {**data, "starts_at": starts_at and starts_at.isoformat()})
        return id

    def deleted(self, entity: str, id: UUID) -> Event:
        """With the row as it was last."""
        last = next(one for one in reversed(self.events) if one.subject == id)
        return self.tell(f"{entity}.deleted", id, last.data)

    def attend(self, author: UUID, event: UUID, *, since: datetime | None = None) -> UUID:
        op = operation.make(int((since or self._now()).timestamp() * 1000), uuid4().int)
        self.tell("attendance.confirmed", op, {"operation": op, "author": author, "event": event})
        return op

    def cancel(self, op: UUID, reason: str = "cancelled") -> None:
        last = next(one for one in reversed(self.events) if one.subject == op)
        self.tell("attendance.cancelled", op, {**last.data, "reason": reason})

    def operation(self, state: str, op: UUID, **data: Any) -> Event:
        return self.tell(f"operation.{state}", op, {"operation": op, **data})

    def report(self, *items: dict[str, Any]) -> Event:
        return self.tell("operation.reported", uuid4(), {"items": list(items)})

    def tell(self, type: str, subject: UUID, data: dict[str, Any], actor: str | None = "ada") -> Event:
        version = self._versions[subject] = self._versions.get(subject, 0) + 1
        told = {name: str(value) if isinstance(value, UUID) else value for name, value in data.items()}
        event = Event(
            id=uuid4(),
            source="/tally/test",
            type=type,
            time=self._now() + timedelta(seconds=next(self._seconds)),
            subject=subject,
            incarnation=INCARNATION,
            entityversion=version,
            actor=actor,
            data={**told, "version": version} if type.partition(".")[0] in ("author", "conference", "event") else told,
        )
        self.events.append(event)
        return event

    @staticmethod
    def _now() -> datetime:
        return BEGIN
