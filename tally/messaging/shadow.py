"""Shadow copies: what a service keeps of the entities of another one, so that it can show them while that one is away.

    schema = migrations(copy)                       shadow_author (id, full_name, version, as_of), and a view of cards
    inbox = Inbox(stream, "conference-shadow", subjects(copy), Shadow(copy).apply, database, signals, clock)

Declared by the relationship: which columns of which entity, and of what that entity belongs to. Read-only but for the
owner's events. A deletion leaves nothing; that late events find it is the inbox's business.

Assumes that an event carries the whole row of its entity. ``as_of`` is when the owner said it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any

from tally.chassis.database import Connection
from tally.chassis.queries import load_queries, substituted
from tally.messaging.event import PREFIX
from tally.messaging.journal import Delivered
from tally.protocol.relationship import Copy


def kept(copy: Copy) -> Iterator[Copy]:
    """The copies that belong together; what others belong to comes first."""
    if copy.parent is not None:
        yield from kept(copy.parent)
    yield copy


def subjects(copy: Copy) -> list[str]:
    """Where the events of what is kept are."""
    return [f"{PREFIX}.{one.entity}.>" for one in kept(copy)]


def migrations(copy: Copy) -> list[tuple[str, str]]:
    """The numbered migrations of the tables, (file name, SQL) in order."""
    template = files("tally.messaging").joinpath("shadow_table.sql").read_text()
    return [
        (f"{number:04}_{one.entity}.sql", substituted(template, f"shadow_{one.entity}", _words(one)))
        for number, one in enumerate(kept(copy), start=1)
    ]


class Shadow:
    """Applies events to the copies."""

    def __init__(self, copy: Copy) -> None:
        source = files("tally.messaging").joinpath("shadow.sql")
        self._copies = {one.entity: (one, load_queries(source, **_words(one))) for one in kept(copy)}

    async def apply(self, tx: Connection, events: Sequence[Delivered]) -> None:
        """The newest state of each entity counts. To be given to an inbox."""
        for entity, (copy, queries) in self._copies.items():
            newest = {one.event.subject: one.event for one in events if one.event.entity == entity}
            deleted = [id for id, event in newest.items() if event.change == "deleted"]
            told = [
                {"id": id, "version": event.entityversion, "as_of": event.time, **_picked(copy, event.data)}
                for id, event in newest.items()
                if event.change != "deleted"
            ]
            if told:
                await tx.execute(queries.keep, told)
            if deleted:
                await tx.execute(queries.forget, deleted)

    def __repr__(self) -> str:
        return f"<Shadow of {', '.join(self._copies)}>"


def _picked(copy: Copy, data: Mapping[str, Any]) -> dict[str, Any]:
    return {name: data.get(name) for name in copy.names}


def _words(copy: Copy) -> dict[str, str]:
    """What the templates need to know of a copy."""
    columns = ("id", *copy.names, "version", "as_of")
    shown = [f"e.{name}" for name in columns]
    joined = ""
    if (parent := copy.parent) is not None:
        shown.append(f"row_to_json(p) AS {parent.entity}")
        joined = f"LEFT JOIN shadow_{parent.entity} p ON p.id = e.{copy.parent_column}"
    return {
        "entity": copy.entity,
        "declared": ", ".join(copy.columns),
        "names": ", ".join(copy.names),
        "excluded": ", ".join(f"excluded.{name}" for name in copy.names),
        "shown": ", ".join(shown),
        "joined": joined,
    }
