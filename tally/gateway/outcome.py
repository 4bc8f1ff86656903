"""What came of a request: done, refused, or unknown. Values, without HTTP."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from tally.protocol.relationship import Side


class Created(Struct, frozen=True):
    """Done: both halves of ``op`` are live."""

    op: UUID


class Already(Struct, frozen=True):
    """Done before: the pair is related by ``op``."""

    op: UUID


class Cancelled(Struct, frozen=True):
    """Done: ``op`` is dead for ever."""

    op: UUID


class NotFound(Struct, frozen=True):
    """Refused: the entities of these sides don't exist."""

    sides: tuple[Side, ...]


class NotRelated(Struct, frozen=True):
    """Refused: both entities may exist, but they aren't related."""


class Full(Struct, frozen=True):
    """Refused: no seat is left."""


class Contended(Struct, frozen=True):
    """Refused: other operations on this pair were faster until the deadline."""


class ClockSkew(Struct, frozen=True):
    """Refused: the clocks of gateway and participant are too far apart."""


class Unavailable(Struct, frozen=True):
    """Refused, nothing is recorded now or later: ``service`` can't be reached."""

    service: str
    reason: str
    retry_after_s: float | None = None


class Unknown(Struct, frozen=True):
    """Nothing is proven: what became of ``op`` can be asked for."""

    op: UUID
    service: str | None = None


CreateOutcome = Created | Already | NotFound | Full | Contended | ClockSkew | Unavailable | Unknown
CancelOutcome = Cancelled | NotRelated | NotFound | Unavailable | Unknown
