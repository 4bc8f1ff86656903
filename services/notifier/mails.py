"""What can be asked about mails: which were sent when. Addresses are shown to operators only.

Whoever knows an operation may know that its mail was sent; to whom is between the author and us.
"""

from __future__ import annotations

from datetime import datetime
from http import HTTPStatus
from typing import Literal
from uuid import UUID

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from services.notifier.mailer import Mailer, queries
from tally.chassis.auth import Guard
from tally.chassis.database import Database, Record
from tally.chassis.http import (
    AFTER,
    LIMIT,
    Handler,
    QueryParameter,
    Route,
    after,
    cursor,
    json_response,
    limit,
    link,
    path_uuid,
)
from tally.chassis.http import query_value as value_of
from tally.chassis.problems import Problem

State = Literal["waiting", "sent", "failed", "suppressed"]
_BEFORE_ALL = UUID(int=0)
_OPERATION = QueryParameter("operation", "Only the mails about this operation.", UUID)
_STATE = QueryParameter("state", "Only mails in this state: waiting, sent, failed or suppressed.", State)


class Mail(Struct, frozen=True, omit_defaults=True):
    """A mail: what it tells of (`confirmed`, `cancelled`, `rejected`, `changed`), and what became of it.

    `suppressed` was not sent on purpose: the author has no address, or the news was old. `email` is for operators."""

    id: UUID
    operation: UUID
    kind: str
    state: State
    author: UUID
    event: UUID
    at: datetime
    attempts: int
    reason: str | None = None
    sent_at: datetime | None = None
    email: str | None = None


class MailPage(Struct, frozen=True):
    items: list[Mail]
    next: str | None


class Queued(Struct, frozen=True):
    """How many mails are tried again."""

    queued: int


class Mails:
    """The routes of the notifier."""

    def __init__(self, database: Database, mailer: Mailer) -> None:
        self._database = database
        self._mailer = mailer

    def routes(self) -> list[Route]:
        return [self._list("/mail", self._public, tag="mail")]

    def admin_routes(self, guard: Guard) -> list[Route]:
        problems = ("unauthenticated", "forbidden")
        return [
            self._list("/admin/mail", guard(self._private), tag="admin", problems=problems),
            Route(
                "POST",
                "/admin/mail/{id}/retry",
                guard(self._retry),
                "Try a mail again that failed or was suppressed.",
                response=Queued,
                problems=("not-a-uuid", "not-found", *problems),
                tags=("admin",),
            ),
            Route(
                "POST",
                "/admin/mail/retry",
                guard(self._retry_all),
                "Try all mails again that failed.",
                response=Queued,
                problems=problems,
                tags=("admin",),
            ),
        ]

    @staticmethod
    def _list(path: str, handler: Handler, *, tag: str, problems: tuple[str, ...] = ()) -> Route:
        return Route(
            "GET",
            path,
            handler,
            "Mails, and what became of them.",
            response=MailPage,
            query=(LIMIT, AFTER, _OPERATION, _STATE),
            problems=("invalid-query", "service-unavailable", "overloaded", *problems),
            sends=("Link",),
            tags=(tag,),
        )

    async def _public(self, request: Request) -> Response:
        return await self._page(request, private=False)

    async def _private(self, request: Request) -> Response:
        return await self._page(request, private=True)

    async def _page(self, request: Request, *, private: bool) -> Response:
        most = limit(request)
        asked = (value_of(request, _OPERATION), value_of(request, _STATE))
        rows = await self._database.fetch(queries.page, after(request) or _BEFORE_ALL, most + 1, *asked)
        following = cursor(rows[most - 1]["id"]) if len(rows) > most else None
        page = MailPage([_mail(row, private=private) for row in rows[:most]], following)
        return json_response(page, headers=link(request, following))

    async def _retry(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        if not await self._queue(id):
            raise Problem("not-found", f"No mail {id} has failed or was suppressed.")
        return json_response(Queued(1), HTTPStatus.OK)

    async def _retry_all(self, request: Request) -> Response:
        return json_response(Queued(await self._queue(None)), HTTPStatus.OK)

    async def _queue(self, id: UUID | None) -> int:
        rows = await self._database.fetch(queries.retry, id)
        self._mailer.wake()
        return len(rows)


def _mail(row: Record, *, private: bool) -> Mail:
    return Mail(
        row["id"],
        row["operation"],
        row["kind"],
        row["state"],
        row["author"],
        row["event"],
        row["at"],
        row["attempts"],
        # What a mail server says may name the address.
        row["reason"] if private or row["state"] == "suppressed" else None,
        row["sent_at"],
        row["email"] if private else None,
    )
