"""The audit trail's chain: what is hashed, and how a break is found.

A row's hash is the SHA-256 of the hash of the row before it (32 bytes; zeros before the first), followed by the row's
canonical JSON: an array, without blanks, in UTF-8, of

    [seq, sequence, at, actor, type, entity, subject, version, event_id, source, trace, data]

`seq` counts the rows from 1, `sequence` is the event's place in the stream, `at` has microseconds and a Z, ids are
in lower case, what is missing is null, and `data` is a string: the event's data as canonical JSON of its own, with its
keys in order and without e-mail addresses. So anybody who has the rows can check them with any tool.

Pure: no database here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, Final
from uuid import UUID

import msgspec
from msgspec import Struct

ORIGIN: Final = bytes(32)

_encode: Final = msgspec.json.Encoder(order="sorted").encode
#: What is between a person and the owner.
_PRIVATE: Final = frozenset({"email"})


class Entry(Struct, frozen=True, kw_only=True):
    """A row of the audit trail, without its hash."""

    seq: int
    sequence: int
    at: datetime
    actor: str | None
    type: str
    entity: str
    subject: UUID
    version: int
    event_id: UUID
    source: str
    trace: str | None
    data: str

    def canonical(self) -> bytes:
        at = self.at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return _encode([
            self.seq, self.sequence, at, self.actor, self.type, self.entity, self.subject, self.version, self.event_id,
            self.source, self.trace, self.data,
        ])  # fmt: skip


class Broken(Struct, frozen=True):
    """The first row that does not follow from those before it."""

    seq: int
    why: str


def canonical_data(data: Mapping[str, Any]) -> str:
    """An event's data as it stands in the trail."""
    return _encode({name: value for name, value in data.items() if name not in _PRIVATE}).decode()


def link(before: bytes, entry: Entry) -> bytes:
    """The hash of a row."""
    return sha256(before + entry.canonical()).digest()


def verify(seq: int, before: bytes, rows: Iterable[tuple[Entry, bytes]]) -> tuple[int, bytes, Broken | None]:
    """Walks rows that must follow row ``seq``, whose hash is ``before``: how far they do, and which does not."""
    for entry, told in rows:
        if entry.seq != seq + 1:
            return seq, before, Broken(seq + 1, f"it is missing: row {entry.seq} follows row {seq}")
        if (computed := link(before, entry)) != told:
            return seq, before, Broken(entry.seq, "its hash does not follow from it and the row before")
        seq, before = entry.seq, computed
    return seq, before, None
