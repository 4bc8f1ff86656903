"""Operations: one with its history, those that are stuck, and one as it goes on (server-sent events)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from services.directory import log
from services.directory.listen import Listeners
from services.directory.reading import PROBLEMS
from services.directory.states import FINAL, SAGA_STATES, STATES
from tally.chassis.clock import Clock, utc
from tally.chassis.database import Database
from tally.chassis.http import (
    AFTER,
    LASTING,
    LIMIT,
    HeaderParameter,
    QueryParameter,
    Route,
    after,
    cursor,
    json_response,
    limit,
    link,
    path_uuid,
    query_value,
)
from tally.chassis.problems import Problem

STATE: Final = QueryParameter(
    "state", "The current state; if it is not given, any that is not final.", Literal[(*STATES, *SAGA_STATES)]
)
OLDER_THAN: Final = QueryParameter(
    "older_than",
    "Only what was requested longer ago than that: `30s`, `5m`, `2h`, `1d`.",
    Annotated[str, Meta(pattern="^[0-9]{1,5}[smhd]$")],
)
LAST_EVENT_ID: Final = HeaderParameter(
    "Last-Event-ID", "The id of the last event that was received: what came until then is not sent again."
)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


class Stuck(Struct, frozen=True, omit_defaults=True):
    """An operation in some state: since when, why, and how often it was tried."""

    id: UUID
    state: str
    age_s: Annotated[float, Meta(description="Seconds since it was requested.")]
    requested_at: datetime
    at: Annotated[datetime, Meta(description="When it came into this state.")]
    attempts: int = 0
    reason: str | None = None
    service: str | None = None
    author: UUID | None = None
    event: UUID | None = None
    traceparent: str | None = None


class StuckPage(Struct, frozen=True):
    items: list[Stuck]
    next: str | None


class Operations:
    """The routes."""

    def __init__(self, database: Database, listeners: Listeners, clock: Clock) -> None:
        self._database = database
        self._listeners = listeners
        self._clock = clock

    def routes(self) -> list[Route]:
        tags = ("operation",)
        return [
            Route(
                "GET", "/operation", self._page, "Operations by state: what is stuck, since when and why.",
                response=StuckPage, query=(LIMIT, AFTER, STATE, OLDER_THAN), problems=PROBLEMS, sends=("Link",),
                tags=tags,
            ),
            Route(
                "GET", "/operation/{id}", self._one, "An operation with all that was told of it.",
                response=log.History, problems=("operation-not-found", *PROBLEMS), tags=tags,
            ),
            Route(
                "GET", "/operation/{id}/events", self._events,
                "The same as server-sent events: what was told, then what is being told, until it has ended.",
                headers=(LAST_EVENT_ID,), problems=("operation-not-found", *PROBLEMS), tags=tags,
            ),
        ]  # fmt: skip

    async def _one(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        return json_response(_known(await log.history(self._database, id), id))

    async def _page(self, request: Request) -> Response:
        state, age = query_value(request, STATE), query_value(request, OLDER_THAN)
        most, start = limit(request), after(request) or UUID(int=0)
        now = utc(self._clock.now_ms())
        before = now - _duration(age) if age else now + timedelta(days=1)
        query = log.queries.ended if state in FINAL else log.queries.open
        rows = await self._database.fetch(query, state, before, start, most + 1)
        following = cursor(rows[most - 1]["id"]) if len(rows) > most else None
        items = [_stuck(dict(row.items()), now) for row in rows[:most]]
        return json_response(StuckPage(items, following), headers=link(request, following))

    async def _events(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        _known(await log.history(self._database, id), id)
        last = request.headers.get("last-event-id", "")
        request.scope[LASTING] = True
        return self._listeners.answer(id, int(last) if re.fullmatch("[0-9]{1,18}", last) else 0)


def _known(history: log.History | None, id: UUID) -> log.History:
    if history is None:
        raise Problem("operation-not-found", f"Nothing has been told of operation {id}.", operation=str(id))
    return history


def _stuck(row: dict[str, object], now: datetime) -> Stuck:
    trace, requested_at = row.pop("trace"), row["requested_at"]
    assert isinstance(requested_at, datetime)
    age_s = max(0.0, (now - requested_at).total_seconds())
    return msgspec.convert({**row, "traceparent": trace, "age_s": age_s}, Stuck)


def _duration(text: str) -> timedelta:
    return timedelta(seconds=int(text[:-1]) * _UNITS_S[text[-1]])
