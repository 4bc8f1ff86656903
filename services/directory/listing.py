"""A list in pages: its orders, how a page is asked for, and where the next one begins.

A cursor names the item that a page ended with. Where that item stands in the order is looked up when the next page is
asked for, so a page never repeats what did not move, and an item that has gone since still marks its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Final, Literal
from uuid import UUID

from starlette.requests import Request

from tally.chassis.database import Database, Record
from tally.chassis.http import QueryParameter, after, cursor, limit, query_value
from tally.chassis.queries import load_queries

_FIRST: Final = UUID(int=0)
_LAST: Final = UUID(int=(1 << 128) - 1)
#: Before every time: PostgreSQL's `-infinity`, as asyncpg knows it.
BEGINNING: Final = datetime.min.replace(tzinfo=UTC)
#: Above every count.
MOST: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Order:
    """One order of a list: an SQL expression, and the value that every row's is beyond."""

    key: str
    before: Any
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, and the cursor of those that follow, if any do."""

    rows: Sequence[Record]
    next: str | None


class Listing:
    """A list by the name of its query in `pages.sql`. The first order is the default.

    ``found`` is what stands in the place of the query's filter without and with its argument, $4; ``id`` is the column
    that tells rows apart.
    """

    def __init__(
        self, name: str, orders: Mapping[str, Order], *, found: tuple[str, str] = ("true", "true"), id: str = "id"
    ) -> None:
        self._name = name
        self._orders = orders
        self._id = id
        self._default = next(iter(orders))
        self._queries = {
            (order, asked): _rendered(orders[order], found[asked]) for order in orders for asked in (False, True)
        }
        self.sort = QueryParameter("sort", f"The order; {self._default} if it is not given.", Literal[tuple(orders)])

    async def page(self, database: Database, request: Request, *args: object, scope: Sequence[object] = ()) -> Page:
        """The page that is asked for. ``args`` are the query's own, from $4; ``scope`` the key's, from $2."""
        order = query_value(request, self.sort) or self._default
        most, last = limit(request), after(request)
        queries = self._queries[order, bool(args) and args[0] is not None]
        begin: Any = self._orders[order].before
        if last is not None:
            begin = await database.fetchval(getattr(queries, f"{self._name}_key"), last, *scope)
            if begin is None:
                return Page([], None)
        else:
            last = _LAST if self._orders[order].descending else _FIRST
        # One more than is shown, to know whether there is a next page.
        rows = await database.fetch(getattr(queries, self._name), begin, last, most + 1, *args)
        following = cursor(rows[most - 1][self._id]) if len(rows) > most else None
        return Page(rows[:most], following)


def _rendered(order: Order, found: str) -> Any:
    return load_queries(
        files("services.directory").joinpath("pages.sql"),
        key=order.key,
        beyond="<" if order.descending else ">",
        direction="DESC" if order.descending else "ASC",
        found=found,
    )
