"""What all public reads of the view have in common: how fresh the answer is, waiting for one's own write, pages.

Every answer carries `as_of` and `lag_s`. `Prefer: wait=N` with `?operation=<id>` holds the answer back until the view
shows what became of that operation, at the most N seconds and at the most as long as the request has; an answer that
does show it says `Preference-Applied`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from typing import Annotated, Any, Final
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from services.directory.listing import Page
from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.database import Database, Record
from tally.chassis.http import (
    AFTER,
    HELD_BACK_S,
    LIMIT,
    PREFER,
    Handler,
    QueryParameter,
    Route,
    json_response,
    link,
    preferences,
    query_value,
)
from tally.chassis.queries import load_queries
from tally.messaging.projection import Freshness, until

queries: Final = load_queries(files("services.directory").joinpath("reading.sql"))

OPERATION: Final = QueryParameter(
    "operation", "With `Prefer: wait=N`: wait until the answer shows what became of this operation.", UUID
)
PROBLEMS: Final = ("invalid-query", "service-unavailable", "overloaded", "deadline-exceeded")
#: Of the time that a request has, what is kept for answering.
_MARGIN_S: Final = 0.25

AsOf = Annotated[datetime | None, Meta(description="The view has all that was published until then.")]
LagS = Annotated[float | None, Meta(description="How long ago that is, in seconds.")]


class Reading:
    """The database and how fresh it is: what the handlers of all reads share."""

    def __init__(self, database: Database, freshness: Freshness, clock: Clock) -> None:
        self.database = database
        self._freshness = freshness
        self._clock = clock

    async def one(self, request: Request, answer: Mapping[str, Any], headers: Mapping[str, str]) -> Response:
        return json_response({**answer, **self._fresh()}, headers=headers)

    async def page(
        self, request: Request, page: Page, view: Callable[[Record], Any], headers: Mapping[str, str]
    ) -> Response:
        items = [view(row) for row in page.rows]
        return self.items(request, items, page.next, headers)

    def items(self, request: Request, items: Sequence[Any], next: str | None, headers: Mapping[str, str]) -> Response:
        body = {"items": items, "next": next, **self._fresh()}
        return json_response(body, headers={**headers, **link(request, next)})

    async def waited(self, request: Request) -> dict[str, str]:
        """Waits as long as the request prefers; the headers that say whether it was worth it."""
        operation, wait_s = query_value(request, OPERATION), preferences(request).wait_s
        if operation is None or wait_s is None:
            return {}
        deadline = context.deadline()
        left_s = float(wait_s) if deadline is None else deadline.left_s(self._clock.monotonic_s()) - _MARGIN_S

        async def contains() -> bool:
            return bool(await self.database.fetchval(queries.contains, operation))

        begun_s = self._clock.monotonic_s()
        seen = await until(contains, min(float(wait_s), left_s))
        request.scope[HELD_BACK_S] = self._clock.monotonic_s() - begun_s
        return {"Preference-Applied": f"wait={wait_s}"} if seen else {}

    def _fresh(self) -> dict[str, Any]:
        return {"as_of": self._freshness.as_of, "lag_s": self._freshness.lag_s}


def list_of(item: type[Struct], name: str) -> Any:
    """The type of a page of ``item``."""
    return msgspec.defstruct(
        name,
        [
            ("items", list[item]),  # type: ignore[valid-type]
            ("next", Annotated[str | None, Meta(description="The cursor of the next page.")]),
            ("as_of", AsOf),
            ("lag_s", LagS),
        ],
    )


def read(
    path: str,
    handler: Handler,
    summary: str,
    response: Any,
    *,
    query: Sequence[QueryParameter] = (),
    problems: Sequence[str] = (),
    paged: bool = True,
) -> Route:
    """A route that reads the view."""
    return Route(
        "GET",
        path,
        handler,
        summary,
        response=response,
        query=(*((LIMIT, AFTER) if paged else ()), *query, OPERATION),
        headers=(PREFER,),
        problems=(*problems, *PROBLEMS),
        sends=("Link", "Preference-Applied") if paged else ("Preference-Applied",),
        tags=(path.split("/")[1],),
    )
