"""What came of a request: done, refused, or unknown. Values, without HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from tally.protocol.relationship import Side


@dataclass(frozen=True, slots=True)
class Created:
    """Done: both halves of ``op`` are live."""

    op: UUID


@dataclass(frozen=True, slots=True)
class Already:
    """Done before: the pair is related by ``op``."""

    op: UUID


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Done: ``op`` is dead for ever."""

    op: UUID


@dataclass(frozen=True, slots=True)
class NotFound:
    """Refused: the entities of these sides don't exist."""

    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class NotRelated:
    """Refused: both entities may exist, but they aren't related."""


@dataclass(frozen=True, slots=True)
class Full:
    """Refused: no seat is left."""


@dataclass(frozen=True, slots=True)
class Contended:
    """Refused: other operations on this pair were faster until the deadline."""


@dataclass(frozen=True, slots=True)
class ClockSkew:
    """Refused: the clocks of gateway and participant are too far apart."""


@dataclass(frozen=True, slots=True)
class Unavailable:
    """Refused, nothing is recorded now or later: ``service`` can't be reached."""

    service: str
    reason: str
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is proven: what became of ``op`` can be asked for."""

    op: UUID
    service: str | None = None


CreateOutcome = Created | Already | NotFound | Full | Contended | ClockSkew | Unavailable | Unknown
CancelOutcome = Cancelled | NotRelated | NotFound | Unavailable | Unknown
