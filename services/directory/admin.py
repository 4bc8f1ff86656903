"""What operators do to the directory: rebuild the view, compare it, read the audit trail and verify it.

Assumes the guard around each handler.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Final
from uuid import UUID

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from services.directory import audit
from services.directory.chain import Entry
from services.directory.reading import PROBLEMS
from tally.chassis.auth import Guard
from tally.chassis.database import Database
from tally.chassis.http import (
    AFTER,
    LIMIT,
    QueryParameter,
    Route,
    after,
    cursor,
    json_response,
    limit,
    link,
    query_value,
)
from tally.chassis.problems import Problem
from tally.messaging.rebuild import Rebuild, shown
from tally.messaging.stream import StreamUnavailable

_GUARDED: Final = ("unauthenticated", "forbidden")
_FROM_ROW: Final = QueryParameter("after", "The row that was verified last.", Annotated[int, Meta(ge=0, le=2**53)])
ENTITY: Final = QueryParameter("entity", "Of this kind: author, event, conference, attendance, operation.")
SUBJECT: Final = QueryParameter("subject", "Of this entity.", UUID)
ACTOR: Final = QueryParameter("actor", "What this actor did.")


class AuditPage(Struct, frozen=True):
    items: list[Entry]
    next: str | None


def audit_routes(database: Database, guard: Guard) -> list[Route]:
    """For operators only, on either port."""

    async def show(request: Request) -> Response:
        most, last = limit(request), after(request)
        filters = [query_value(request, one) for one in (ENTITY, SUBJECT, ACTOR)]
        start = min(last.int if last else 0, 2**53)
        entries = await audit.page(database, start, most + 1, *filters)
        following = cursor(UUID(int=entries[most - 1].seq)) if len(entries) > most else None
        return json_response(AuditPage(entries[:most], following), headers=link(request, following))

    return [
        Route(
            "GET", "/audit", guard(show), "Who did what to which entity when.", response=AuditPage,
            query=(LIMIT, AFTER, ENTITY, SUBJECT, ACTOR), problems=(*_GUARDED, *PROBLEMS), sends=("Link",),
            tags=("audit",),
        )
    ]  # fmt: skip


def admin_routes(rebuild: Rebuild, database: Database, guard: Guard) -> list[Route]:
    """On the admin port."""

    async def begin(request: Request) -> Response:
        try:
            begun = await rebuild.begin()
        except StreamUnavailable as error:
            raise Problem("service-unavailable", f"The stream can't be reached: {error}.", service="nats") from error
        return json_response({"begun": begun, **shown(await rebuild.standing())}, HTTPStatus.ACCEPTED)

    async def standing(request: Request) -> Response:
        return json_response(shown(await rebuild.standing()))

    async def digest(request: Request) -> Response:
        return json_response({"tables": await rebuild.digests()})

    async def verify(request: Request) -> Response:
        return json_response(await audit.verify(database, query_value(request, _FROM_ROW) or 0, audit.BATCH_MAX))

    tags = ("admin",)
    unavailable = (*_GUARDED, "service-unavailable")
    return [
        Route(
            "POST", "/admin/rebuild", guard(begin), "Rebuild the view from the stream, and switch to it.",
            status=HTTPStatus.ACCEPTED, problems=unavailable, tags=tags,
        ),
        Route("GET", "/admin/rebuild", guard(standing), "How far the rebuild is.", problems=unavailable, tags=tags),
        Route("GET", "/admin/digest", guard(digest), "What the view holds.", problems=unavailable, tags=tags),
        Route(
            "GET", "/admin/audit/verify", guard(verify), "Walk a part of the audit trail's chain.",
            response=audit.Verified, query=(_FROM_ROW,), problems=unavailable, tags=tags,
        ),
    ]  # fmt: skip
