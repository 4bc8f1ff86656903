"""The public HTTP of a relationship, from its declaration: create, cancel, read from both ends, operations.

Assumes the chassis' stack around it. Outcomes become answers here and nowhere else; what is refused says that
nothing was recorded, and what is unknown says where to ask.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any, Final, Literal, assert_never
from uuid import UUID

import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context, idempotency
from tally.chassis.clock import Clock, utc
from tally.chassis.http import (
    AFTER,
    LIMIT,
    PREFER,
    Route,
    cursor,
    encoded_response,
    json_response,
    link,
    path_uuid,
    preferences,
)
from tally.chassis.http import after as after_of
from tally.chassis.http import limit as limit_of
from tally.chassis.problems import Problem, declare
from tally.gateway import outcome
from tally.gateway.cancel import Canceller
from tally.gateway.codes import codes_of
from tally.gateway.create import Creator
from tally.gateway.deferral import Accepted, Desk
from tally.gateway.history import Directory, History
from tally.gateway.operations import Standing, is_deferred
from tally.gateway.read import Missing, NoSuchEntity, Page, Reader, member
from tally.gateway.status import UNREACHABLE, State, StatusReader
from tally.gateway.status import Operation as ToldByHalves
from tally.protocol import operation
from tally.protocol.participant import Row
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

#: For a request that came without a deadline (in tests; the chassis gives each request one).
_DEADLINE_S = 2.0

#: The gateway looks at the key of a create that is carried out later, and at no other.
KEY: Final = replace(
    idempotency.KEY,
    description="With `respond-async`: repeated with the same key within 24 hours, the request answers with the "
    "operation that it began at first. Without it the key is not looked at, for a create is idempotent by itself.",
)
#: What `complete` says of a list.
_COMPLETE: Final = (
    "False if a service did not answer: then the halves of the other one are shown, and some may turn out never to "
    "have existed."
)
#: What a service holds of an operation: a row of the protocol, or that it did not say.
HalfState = Annotated[str, Meta(extra_json_schema={"enum": [*(row.value for row in Row), UNREACHABLE]})]


class Operation(Struct, frozen=True, omit_defaults=True):
    """What became of an operation. `done` exists now; `refused` and `cancelled` are final; `undecided` is
    decided within the settlement lag; `unknown` means that a service did not answer; `gone` does not exist and never
    will, and whether it once did is not known any more.

    One that was answered with 202 is `deferred` until it ends as `confirmed` (`attempt` is the operation that did
    it), `rejected` or `abandoned`; `parked` waits for an operator. A deletion that ends attendances is `started`, and
    `completed` with the last of them."""

    id: UUID
    state: Literal[
        "done",
        "refused",
        "cancelled",
        "gone",
        "undecided",
        "unknown",
        "deferred",
        "confirmed",
        "rejected",
        "abandoned",
        "parked",
        "started",
        "completed",
    ]
    halves: Annotated[
        dict[str, HalfState],
        Meta(
            description="What each service holds of it: `live`; `open`, nothing yet; `void`, it was refused there, for "
            "ever; `cancelled`; `closed`, nothing any more, and nothing can come; `unreachable`, it did not say. Empty "
            "for a deferred operation, and for a deletion."
        ),
    ]
    reasons: list[str] = []
    location: str | None = None
    detail: str | None = None
    attempt: UUID | None = None
    attempts: int | None = None
    next_at: datetime | None = None
    history: Annotated[
        list[dict[str, Any]], Meta(description="What was told of it, if the directory said so in time.")
    ] = []


class Degraded(Struct, frozen=True):
    """A service that did not answer: what it alone knows is missing from the page. What is shown of its entities is
    the other service's copy: each is shown as it has been since `as_of` or later."""

    service: str
    reason: str
    since: datetime | None = None
    as_of: datetime | None = None


class RelationRoutes:
    """The routes of one relationship."""

    def __init__(
        self,
        relationship: Relationship,
        creator: Creator,
        canceller: Canceller,
        reader: Reader,
        status: StatusReader,
        desk: Desk,
        clock: Clock,
        directory: Directory,
    ) -> None:
        self._directory = directory
        self._relationship = relationship
        self._desk = desk
        self._creator = creator
        self._canceller = canceller
        self._reader = reader
        self._status = status
        self._clock = clock
        left, right, name = relationship.left.entity, relationship.right.entity, relationship.name
        self._left, self._right = left, right
        declare(codes_of(relationship))
        self._path = f"/{right}/{{{right}}}/{name}/{{{left}}}"
        self._resource = msgspec.defstruct(
            name.capitalize(),
            [(right, UUID), (left, UUID), ("operation", UUID), ("since", datetime)],
            frozen=True,
        )

    def routes(self) -> list[Route]:
        """Everything a caller can do with the relationship."""
        left, right, name = self._left, self._right, self._relationship.name
        not_found = (f"{left}-not-found", f"{right}-not-found", "both-not-found")
        failures = ("service-unavailable", "outcome-unknown", "overloaded")
        create: dict[str, Any] = {
            "handler": self._create,
            "response": self._resource,
            "status": 201,
            "also": {200: self._resource, 202: Accepted},
            "headers": (PREFER, KEY),
            "sends": ("Location", "Preference-Applied"),
            "problems": (
                "not-a-uuid",
                *not_found,
                *([f"{right}-full"] if self._relationship.right.seats else []),
                "contended",
                *failures,
                "invalid-header",
                "idempotency-key-reused",
            ),
            "tags": (name,),
        }
        one: dict[str, Any] = {
            "problems": ("not-a-uuid", *not_found, f"{name}-not-found", *failures),
            "tags": (name,),
        }
        pages: dict[str, Any] = {"query": (LIMIT, AFTER), "headers": (PREFER,), "tags": (name,)}
        unreadable = ("not-a-uuid", "invalid-query", "service-unavailable", "overloaded")
        return [
            Route(
                "POST",
                self._path,
                summary=f"Relate {left} and {right}; 200 if they are already, 202 with respond-async.",
                **create,
            ),
            Route("PUT", self._path, summary="The same: creating it is idempotent.", **create),
            Route("GET", self._path, self._get, f"One {name}.", response=self._resource, **one),
            Route("DELETE", self._path, self._cancel, f"End the {name}, for good.", status=204, **one),
            Route(
                "GET",
                f"/{right}/{{{right}}}/{name}",
                self._by(Side.RIGHT),
                f"The {self._relationship.left.plural} of one {right}.",
                response=self._page_type(Side.RIGHT),
                problems=(f"{right}-not-found", *unreadable),
                **pages,
            ),
            Route(
                "GET",
                f"/{left}/{{{left}}}/{name}",
                self._by(Side.LEFT),
                f"The {self._relationship.right.plural} of one {left}.",
                response=self._page_type(Side.LEFT),
                problems=(f"{left}-not-found", *unreadable),
                **pages,
            ),
            Route(
                "GET",
                "/operation/{operation}",
                self._operation,
                "What became of an operation: as both halves tell it, or how it stands if it was deferred.",
                response=Operation,
                problems=("not-a-uuid", "operation-not-found", "service-unavailable"),
                tags=("operation",),
            ),
        ]

    # -- writes

    async def _create(self, request: Request) -> Response:
        left, right = path_uuid(request, self._left), path_uuid(request, self._right)
        if preferences(request).respond_async:
            return await self._desk.accept(request, left, right)
        result = await self._creator.create(left, right, self._deadline())
        match result:
            case outcome.Created(op):
                return self._related(201, left, right, op)
            case outcome.Already(op):
                return self._related(200, left, right, op)
            case outcome.Full():
                raise Problem(
                    f"{self._right}-full",
                    f"No seat is left at {self._right} {right}.",
                    service=self._service(Side.RIGHT),
                )
            case outcome.Contended():
                raise Problem("contended", "Others kept changing this pair. Nothing was recorded for this request.")
            case outcome.ClockSkew():
                detail = "The services' clocks are too far apart. Nothing was recorded."
                raise Problem("service-unavailable", detail)
            case outcome.NotFound() | outcome.Unavailable() | outcome.Unknown():
                raise self._problem(result, left, right)
            case _:
                assert_never(result)

    async def _cancel(self, request: Request) -> Response:
        left, right = path_uuid(request, self._left), path_uuid(request, self._right)
        result = await self._canceller.cancel(left, right, self._deadline())
        match result:
            case outcome.Cancelled():
                return Response(status_code=204)
            case outcome.NotRelated() | outcome.NotFound() | outcome.Unavailable() | outcome.Unknown():
                raise self._problem(result, left, right)
            case _:
                assert_never(result)

    # -- reads

    async def _get(self, request: Request) -> Response:
        left, right = path_uuid(request, self._left), path_uuid(request, self._right)
        found = await self._canceller.find(left, right, self._deadline())
        if isinstance(found, UUID):
            return self._related(200, left, right, found)
        assert not isinstance(found, outcome.Cancelled)
        raise self._problem(found, left, right)

    def _by(self, side: Side) -> Any:
        end, other = self._relationship.end(side), self._relationship.end(side.peer)

        async def read(request: Request) -> Response:
            entity = path_uuid(request, end.entity)
            after, limit = after_of(request), limit_of(request)
            try:
                page = await self._reader.page(side, entity, after, limit, self._deadline())
            except NoSuchEntity:
                raise Problem(
                    f"{end.entity}-not-found", f"There is no {end.entity} {entity}.", service=end.service
                ) from None
            if page.missing and (preferences(request).strict or len(page.missing) == len(Side)):
                raise _unavailable(page.missing[0])
            return self._page(request, end.entity, other.plural, entity, page)

        return read

    def _page(self, request: Request, entity_name: str, plural: str, entity: UUID, page: Page) -> Response:
        """The page's JSON, put together from what the owners sent without decoding it."""
        card = page.entity or msgspec.json.encode({"id": entity})
        items = b",".join(member(card or b'{"id":"%s"}' % id.encode(), operation=op) for op, id, card in page.items)
        next = None if page.next is None else cursor(UUID(page.next))
        tail: dict[str, object] = {"next": next, "complete": not page.missing}
        if page.missing:
            tail["degraded"] = [_degraded(missing) for missing in page.missing]
        body = b'{"%s":%s,"%s":[%s],%s' % (
            entity_name.encode(),
            card,
            plural.encode(),
            items,
            msgspec.json.encode(tail)[1:],
        )
        return encoded_response(body, headers=link(request, next))

    async def _operation(self, request: Request) -> Response:
        op, deadline = path_uuid(request, "operation"), self._deadline()
        logged = asyncio.ensure_future(self._directory.history(op, deadline))
        try:
            if is_deferred(op):
                standing = await self._desk.standing(op)
                return self._deferred(standing, await logged)
            if op.version != 7:
                return _as_logged(op, await logged)
            told = await self._status.operation(op, deadline)
            return self._told(op, told, await logged)
        finally:
            logged.cancel()

    def _told(self, op: UUID, told: ToldByHalves, logged: History | None) -> Response:
        location = None
        if told.state == "done" and told.left is not None and told.right is not None:
            location = self._location(told.left, told.right)
        return json_response(
            Operation(
                id=op,
                state=told.state.value if logged is None else _with_log(told, logged.state),
                halves={self._service(side): row for side, row in told.rows.items()},
                reasons=[reason.value for reason in told.reasons],
                location=location,
                history=[] if logged is None else logged.history,
            )
        )

    def _deferred(self, standing: Standing, logged: History | None) -> Response:
        deferral, data = standing.deferral, standing.data
        reason = data.get("code") or data.get("reason")
        created = standing.state == "confirmed"
        known: dict[str, Any] = {
            "id": deferral.operation,
            "state": standing.state,
            "halves": {},
            "reasons": [] if reason is None else [reason],
            "history": [] if logged is None else logged.history,
            "location": self._location(deferral.left, deferral.right) if created else None,
            "detail": data.get("detail"),
            "next_at": data.get("next_at"),
            # Of a confirmed one it is the operation that did it, of a retried one how many there were.
            "attempt": data.get("attempt") if created else None,
            "attempts": data.get("attempts") if created else data.get("attempt", data.get("attempts")),
        }
        return json_response(msgspec.convert(known, Operation))

    # -- inside

    def _related(self, status: int, left: UUID, right: UUID, op: UUID) -> Response:
        since = utc(operation.time_ms(op))
        resource = self._resource(right, left, op, since)
        return json_response(resource, status, {"Location": self._location(left, right)})

    def _location(self, left: UUID, right: UUID) -> str:
        # (msgspec writes a UUID in a third of the time that `str` takes.)
        left_text, right_text = msgspec.to_builtins(left), msgspec.to_builtins(right)
        return f"/{self._right}/{right_text}/{self._relationship.name}/{left_text}"

    def _problem(
        self,
        result: outcome.NotFound | outcome.NotRelated | outcome.Unavailable | outcome.Unknown,
        left: UUID,
        right: UUID,
    ) -> Problem:
        match result:
            case outcome.NotFound(sides) if len(sides) == len(Side):
                detail = f"There is no {self._left} {left}, and no {self._right} {right}."
                return Problem("both-not-found", detail)
            case outcome.NotFound(sides):
                entity = self._relationship.end(sides[0]).entity
                id = left if sides[0] is Side.LEFT else right
                return Problem(f"{entity}-not-found", f"There is no {entity} {id}.", service=self._service(sides[0]))
            case outcome.NotRelated():
                name = self._relationship.name
                return Problem(
                    f"{name}-not-found", f"{self._left.capitalize()} {left} has no {name} at {self._right} {right}."
                )
            case outcome.Unavailable():
                return _unavailable(result)
            case outcome.Unknown(op, service):
                detail = "It may or may not have been recorded; the operation's address tells which, within seconds."
                return Problem("outcome-unknown", detail, service=service, operation=str(op))

    def _service(self, side: Side) -> str:
        return self._relationship.end(side).service

    def _deadline(self) -> Deadline:
        return context.deadline() or Deadline.after(_DEADLINE_S, self._clock.monotonic_s())

    def _page_type(self, side: Side) -> Any:
        end, other = self._relationship.end(side), self._relationship.end(side.peer)
        return msgspec.defstruct(
            f"{end.entity.capitalize()}{self._relationship.name.capitalize()}s",
            [
                (
                    end.entity,
                    Annotated[dict[str, Any], Meta(description=f"The {end.entity}; only its id if it is not known.")],
                ),
                (
                    other.plural,
                    Annotated[list[dict[str, Any]], Meta(description=f"Each {other.entity}, with its operation.")],
                ),
                ("next", Annotated[str | None, Meta(description="The cursor of the next page.")]),
                ("complete", Annotated[bool, Meta(description=_COMPLETE)]),
                ("degraded", list[Degraded], []),
            ],
        )


#: What the log says, as the halves would have said it while they knew. (A lone half that was voided says nothing: its
#: peer may have been live, and cancelled before the epoch was settled.)
_ENDED = {"cancelled": "cancelled", "refused": "refused"}


def _with_log(told: ToldByHalves, logged: str) -> Any:
    """The state as the halves tell it; as the log does, where they know nothing any more and it has the end."""
    return _ENDED.get(logged, told.state.value) if told.state is State.GONE else told.state.value


def _as_logged(op: UUID, logged: History | None) -> Response:
    """An operation that has no halves: a deletion that ends attendances."""
    if logged is None:
        raise Problem("operation-not-found", f"{op} is not the id of an operation.", operation=str(op))
    return json_response(
        msgspec.convert({"id": op, "state": logged.state, "halves": {}, "history": logged.history}, Operation)
    )


def _unavailable(missing: outcome.Unavailable | Missing) -> Problem:
    """Nothing was recorded for a write that ends so; a read has nothing to record."""
    why = _IN_WORDS.get(missing.reason, missing.reason)
    recorded = "" if isinstance(missing, Missing) else " Nothing was recorded."
    return Problem(
        "service-unavailable",
        f"The {missing.service} service can't be reached: {why}.{recorded}",
        service=missing.service,
        retry_after_s=missing.retry_after_s,
    )


#: Why a call was not answered, as a person says it.
_IN_WORDS = {
    "breaker_open": "it failed too often, and is tried again soon",
    "bulkhead_full": "too many requests are waiting for it",
    "deadline_passed": "the time was over",
    "refused": "it refuses connections",
    "dns": "its name can't be resolved",
    "no-connection": "no connection was made in time",
    "timeout": "it did not answer in time",
    "reset": "it cut the connection",
    "cut-short": "it cut its answer short",
}


def _degraded(missing: Missing) -> Degraded:
    since = None if missing.since_ms is None else utc(missing.since_ms)
    return Degraded(missing.service, _IN_WORDS.get(missing.reason, missing.reason), since, missing.as_of)
