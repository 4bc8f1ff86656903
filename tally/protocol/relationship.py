"""The declaration of a relationship: everything else (schema, routes, settler, events) follows from it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_NAME = re.compile(r"[a-z][a-z0-9_]{0,30}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,30} [a-z]+")


class Side(StrEnum):
    """The two sides. The right one counts seats, settles, and tells the world what was confirmed."""

    LEFT = "left"
    RIGHT = "right"

    # Enum's own is written in Python, and sides are the keys of whatever is known of both.
    __hash__ = str.__hash__

    @property
    def peer(self) -> Side:
        return Side.RIGHT if self is Side.LEFT else Side.LEFT


@dataclass(frozen=True, slots=True)
class Copy:
    """What others keep of an entity, for when its owner is away: columns, as SQL declares them (``full_name text``).

    ``parent`` is what the entity belongs to, by a column ``<parent's entity>_id``; it is kept as well.
    """

    entity: str
    columns: tuple[str, ...]
    parent: Copy | None = None

    def __post_init__(self) -> None:
        if not all(map(_COLUMN.fullmatch, self.columns)):
            raise ValueError(f"the copy of {self.entity}: columns are a name and a type, as in 'full_name text'")
        if self.parent is not None and self.parent_column not in self.names:
            raise ValueError(f"the copy of {self.entity} needs the column {self.parent_column}")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.partition(" ")[0] for column in self.columns)

    @property
    def parent_column(self) -> str | None:
        return None if self.parent is None else f"{self.parent.entity}_id"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a relationship: the service that owns it, and its entity (also its table and path).

    ``seats`` names the entity's column with its capacity (NULL: unlimited); only the right end has one. ``copy`` is
    what the other end's service keeps of the entity; without one it knows the ids only.
    """

    service: str
    entity: str
    plural: str
    seats: str | None = None
    copy: Copy | None = None


@dataclass(frozen=True, slots=True)
class Relationship:
    """A many-to-many relationship between the entities of two services, named for its table and path."""

    name: str
    left: End
    right: End

    def __post_init__(self) -> None:
        for name in (self.name, self.left.entity, self.right.entity):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} can't name a table: use a-z, 0-9 and _, starting with a letter")
        if self.left.seats is not None:
            raise ValueError(f"relationship {self.name}: seats belong to the right end, not to {self.left.entity}")
        for end in (self.left, self.right):
            if end.copy is not None and end.copy.entity != end.entity:
                raise ValueError(f"relationship {self.name}: a copy of {end.copy.entity} is none of {end.entity}")
        if self.left.service == self.right.service or self.left.entity == self.right.entity:
            raise ValueError(f"relationship {self.name}: its ends must be two entities of two services")

    def end(self, side: Side) -> End:
        return self.left if side is Side.LEFT else self.right

    def side_of(self, service: str) -> Side:
        """The side that ``service`` holds; ValueError if it has no part in this relationship."""
        for side in Side:
            if self.end(side).service == service:
                return side
        raise ValueError(f"service {service!r} has no part in the relationship {self.name!r}")
