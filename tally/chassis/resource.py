"""An entity's create, read, list, update and delete, from one declaration.

A service writes three structs (what is posted, what is patched, what is shown), six named queries, and what
its constraints mean; everything a client may expect of a resource follows: versions with `ETag` and
`If-Match`, pages with a cursor and `Link`, `Idempotency-Key`, problems for all that can be foreseen.

**The queries.** Columns are named as the view's fields, among them `id` and `version`; there may be more.

| query  | parameters                                      | returns                                     |
|--------|-------------------------------------------------|---------------------------------------------|
| insert | $1 id, then the fields of `create` in order     | the row                                     |
| get    | $1 id                                           | the row                                     |
| lock   | $1 id                                           | the row, locked against change and deletion |
| page   | $1 id to go on after, $2 limit, then `filters`  | the rows with greater ids, in their order   |
| update | $1 id, then the fields of `patch` in order      | the row, its version one higher             |
| delete | $1 id, and $2 whether to cascade if `cascade`   | nothing                                     |
| takes  | $1 id, $2 whether to cascade, $3 limit; may be  | `id` of each entity of another resource, in |
|        | missing                                         | a relationship, that a delete takes along   |

The first page goes on after the UUID of all zeros, so that one index serves it too. A filter not given is
NULL. FOR NO KEY UPDATE is lock enough: it lets others refer to the row meanwhile, and a delete that is
overtaken by such a reference is done again.

**A write is one transaction**, done again as a whole (at most three times) when it lost against others. It
says who asked (`tally.actor`) and in which trace (`tally.trace`), for the events that the tables' triggers write
in it. What goes wrong with the database leaves as a `DatabaseFault`, which the endpoint (`http.py`) turns into its
problem.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final, Protocol, TypeVar
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import msgspec
from msgspec import UNSET, Struct
from starlette.requests import Request
from starlette.responses import Response
from uuid_utils.compat import uuid7

from tally.chassis import context, idempotency
from tally.chassis.body import json_body
from tally.chassis.database import Connection, Database, Record
from tally.chassis.database_faults import Contended
from tally.chassis.http import (
    AFTER,
    LIMIT,
    HeaderParameter,
    QueryParameter,
    Route,
    after,
    cursor,
    json_response,
    limit,
    path_uuid,
    query_value,
)
from tally.chassis.problems import Code, Problem, declare
from tally.chassis.queries import Queries

T = TypeVar("T")

_QUERIES: Final = ("insert", "get", "lock", "page", "update", "delete")
_TRIES: Final = 3
_BEFORE_ALL: Final = UUID(int=0)
_ORIGIN: Final = "SELECT set_config('tally.trace', $1, true), set_config('tally.actor', $2, true)"

_READ_PROBLEMS: Final = ("service-unavailable", "overloaded", "deadline-exceeded")
_WRITE_PROBLEMS: Final = (*_READ_PROBLEMS, "contended", "outcome-unknown")

IF_MATCH: Final = HeaderParameter("If-Match", "Change it only if this is still its ETag.")
IF_NONE_MATCH: Final = HeaderParameter("If-None-Match", "Answer 304 if this is still its ETag.")
CASCADE: Final = QueryParameter("cascade", "Delete what depends on it too.", bool)


@dataclass(frozen=True, slots=True)
class Violation:
    """What it means to the caller that a constraint of the database was violated."""

    code: str
    detail: str
    field: str | None = None

    def problem(self) -> Problem:
        return Problem(self.code, self.detail, field=self.field)


class Deletions(Protocol):
    """Who carries out what is too much for one transaction."""

    async def takes_over(self, tx: Connection, resource: Resource, id: UUID, cascade: bool) -> bool:
        """Whether this one is too large. Then it is theirs once `tx` is committed, and the client is told 202."""


@dataclass(frozen=True, kw_only=True)
class Resource:
    """The declaration. `name` is also its path: "author" is at `/author` and `/author/{id}`."""

    name: str
    create: type[Struct]
    """The body of POST."""
    patch: type[Struct]
    """The body of PATCH: a subset of `create`'s fields, each with the default UNSET."""
    view: type[Struct]
    """What is answered; its fields are columns."""
    queries: Queries
    not_found: str
    """The code for an id that is not there."""
    constraints: Mapping[str, Violation] = field(default_factory=dict)
    """By the name in PostgreSQL; `has-dependents` is what a delete runs into, the others are a write's."""
    filters: tuple[QueryParameter, ...] = ()
    """Query parameters of the list."""
    cascade: bool = False
    """DELETE understands `?cascade=true`."""
    volatile: tuple[str, ...] = ()
    """View fields that change without a new version: they count for If-None-Match, not for If-Match."""
    new_id: Callable[[], UUID] = uuid7

    def __post_init__(self) -> None:
        declare({self.not_found: Code(HTTPStatus.NOT_FOUND, f"There is no such {self.name}")})

    def routes(self, database: Database, deletions: Deletions | None = None) -> list[Route]:
        """The five routes, for `Service` and for the OpenAPI document."""
        return _routes(self, _Handlers(self, database, deletions), {HTTPStatus.ACCEPTED: None} if deletions else {})

    async def delete(self, tx: Connection, id: UUID, cascade: bool) -> None:
        await tx.execute(self.queries.delete, id, *([cascade] if self.cascade else []))


def _routes(resource: Resource, handlers: _Handlers, or_later: Mapping[int, None]) -> list[Route]:
    name = resource.name
    one = f"an {name}" if name[0] in "aeiou" else f"a {name}"
    codes = dict.fromkeys(violation.code for violation in resource.constraints.values())
    on_write = tuple(code for code in codes if code != "has-dependents")
    on_delete = tuple(code for code in codes if code == "has-dependents")
    page = msgspec.defstruct(
        f"{resource.view.__name__}Page",
        [("items", list[resource.view]), ("next", str | None)],  # type: ignore[name-defined]
    )
    tags = (name,)
    return [
        Route(
            "POST",
            f"/{name}",
            handlers.create,
            f"Create {one}",
            request=resource.create,
            response=resource.view,
            status=HTTPStatus.CREATED,
            headers=(idempotency.KEY,),
            problems=(*on_write, resource.not_found, *idempotency.PROBLEMS, *_WRITE_PROBLEMS),
            sends=("Location", "ETag"),
            tags=tags,
        ),
        Route(
            "GET",
            f"/{name}",
            handlers.page,
            f"List the {name}s, in the order of their ids",
            response=page,
            query=(LIMIT, AFTER, *resource.filters),
            problems=_READ_PROBLEMS,
            sends=("Link",),
            tags=tags,
        ),
        Route(
            "GET",
            f"/{name}/{{id}}",
            handlers.read,
            f"Read {one}",
            response=resource.view,
            also={HTTPStatus.NOT_MODIFIED: None},
            headers=(IF_NONE_MATCH,),
            problems=(resource.not_found, *_READ_PROBLEMS),
            sends=("ETag",),
            tags=tags,
        ),
        Route(
            "PATCH",
            f"/{name}/{{id}}",
            handlers.update,
            f"Change {one}",
            request=resource.patch,
            response=resource.view,
            headers=(IF_MATCH,),
            problems=(resource.not_found, *on_write, "version-mismatch", *_WRITE_PROBLEMS),
            sends=("ETag",),
            tags=tags,
        ),
        Route(
            "DELETE",
            f"/{name}/{{id}}",
            handlers.delete,
            f"Delete {one}",
            status=HTTPStatus.NO_CONTENT,
            also=or_later,
            query=(CASCADE,) if resource.cascade else (),
            headers=(IF_MATCH,),
            problems=(resource.not_found, *on_delete, "version-mismatch", *_WRITE_PROBLEMS),
            tags=tags,
        ),
    ]


class _Handlers:
    """One resource on one database."""

    def __init__(self, resource: Resource, database: Database, deletions: Deletions | None) -> None:
        self._resource = resource
        self._database = database
        self._deletions = deletions
        self._queries = resource.queries
        for name in _QUERIES:
            getattr(resource.queries, name)  # a missing one is found at the start, not by a client
        self._view_fields = resource.view.__struct_fields__
        self._patch_fields = resource.patch.__struct_fields__

    # --- the five requests ----------------------------------------------------------------------------------

    async def create(self, request: Request) -> Response:
        key = idempotency.key_of(request)
        body = await json_body(request, self._resource.create)
        row = await self._write(lambda tx: self._insert(tx, body, key))
        return self._answer(row, HTTPStatus.CREATED, {"Location": f"/{self._resource.name}/{row['id']}"})

    async def read(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        row = self._there(await self._database.fetchrow(self._queries.get, id), id)
        tag = self._tag(row)
        if _tags(request, "if-none-match") & {tag.strip('"'), "*"}:
            return Response(status_code=HTTPStatus.NOT_MODIFIED, headers={"ETag": tag})
        return self._answer(row)

    async def page(self, request: Request) -> Response:
        most = limit(request)
        filters = [query_value(request, parameter) for parameter in self._resource.filters]
        start = after(request) or _BEFORE_ALL
        # One more than is shown, to know whether there is a next page.
        rows = await self._database.fetch(self._queries.page, start, most + 1, *filters)
        following = cursor(rows[most - 1]["id"]) if len(rows) > most else None
        items = [self._view(row) for row in rows[:most]]
        headers = {"Link": self._link(request, most, following)} if following else None
        return json_response({"items": items, "next": following}, headers=headers)

    async def update(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        wanted = _if_match(request)
        body = await json_body(request, self._resource.patch)
        return self._answer(await self._write(lambda tx: self._update(tx, id, body, wanted)))

    async def delete(self, request: Request) -> Response:
        id = path_uuid(request, "id")
        wanted = _if_match(request)
        cascade = self._resource.cascade and query_value(request, CASCADE) is True
        done = await self._write(lambda tx: self._delete(tx, id, cascade, wanted), cascade=cascade)
        return Response(status_code=HTTPStatus.NO_CONTENT if done else HTTPStatus.ACCEPTED)

    # --- the three writes, each inside a transaction --------------------------------------------------------

    async def _insert(self, tx: Connection, body: Struct, key: str | None) -> Record:
        id = self._resource.new_id()
        if key is not None:
            holder = await idempotency.claim(tx, key, f"POST /{self._resource.name}", body, id)
            if holder != id:
                return self._there(await tx.fetchrow(self._queries.get, holder), holder)
        row = await tx.fetchrow(self._queries.insert, id, *msgspec.structs.astuple(body))
        assert row is not None, "insert returns its row"
        return row

    async def _update(self, tx: Connection, id: UUID, body: Struct, wanted: frozenset[str] | None) -> Record:
        old = self._there(await tx.fetchrow(self._queries.lock, id), id)
        self._check_version(old, wanted)
        before = [old[name] for name in self._patch_fields]
        given = [getattr(body, name) for name in self._patch_fields]
        values = [was if value is UNSET else value for was, value in zip(before, given, strict=True)]
        if values == before:
            return old  # not a change: no version, and no event
        row = await tx.fetchrow(self._queries.update, id, *values)
        assert row is not None, "the row is locked, so it is still there"
        return row

    async def _delete(self, tx: Connection, id: UUID, cascade: bool, wanted: frozenset[str] | None) -> bool:
        """False if it is only decided, and done later."""
        old = self._there(await tx.fetchrow(self._queries.lock, id), id)
        self._check_version(old, wanted)
        if self._deletions and await self._deletions.takes_over(tx, self._resource, id, cascade):
            return False
        await self._resource.delete(tx, id, cascade)
        return True

    async def _write(self, work: Callable[[Connection], Awaitable[T]], *, cascade: bool | None = None) -> T:
        """Does `work` in a transaction, again if it lost to others. `cascade` is None unless it deletes."""
        for tries_left in reversed(range(_TRIES)):
            try:
                async with self._database.transaction() as tx:
                    await _say_origin(tx)
                    return await work(tx)
            except Contended:
                if not tries_left:
                    raise
            except asyncpg.IntegrityConstraintViolationError as error:
                foreseen, again = self._violated(error, cascade)
                if again and tries_left:
                    continue
                if foreseen is None:
                    raise
                raise foreseen from error
            except asyncpg.DataError as error:
                raise Problem("invalid-field", "A value is outside what the database can hold.") from error
        raise AssertionError("the last try returned or raised")

    def _violated(
        self, error: asyncpg.IntegrityConstraintViolationError, cascade: bool | None
    ) -> tuple[Problem | None, bool]:
        """What a violated constraint means, if that was foreseen, and whether another try may help."""
        meaning = self._resource.constraints.get(error.constraint_name or "")
        refusal = None if meaning is None else meaning.problem()
        if cascade is None or not isinstance(error, asyncpg.ForeignKeyViolationError):
            return refusal, False
        # Dependents that the delete would have taken along, or does not know of, came in between.
        overtaken = cascade or meaning is None
        return refusal or Problem("contended", "New dependents come as fast as the old are deleted."), overtaken

    # --- rows and answers -----------------------------------------------------------------------------------

    def _there(self, row: Record | None, id: UUID) -> Record:
        if row is None:
            raise Problem(self._resource.not_found, f"There is no {self._resource.name} {id}.")
        return row

    def _check_version(self, row: Record, wanted: frozenset[str] | None) -> None:
        if wanted is not None and str(row["version"]) not in wanted:
            raise Problem(
                "version-mismatch",
                f"The {self._resource.name} has changed; its ETag is now {self._tag(row)}.",
                field="If-Match",
            )

    def _tag(self, row: Record) -> str:
        return f'"{".".join(str(row[name]) for name in ("version", *self._resource.volatile))}"'

    def _link(self, request: Request, most: int, following: str) -> str:
        given = {f.name: request.query_params[f.name] for f in self._resource.filters if f.name in request.query_params}
        query = urlencode({**given, "limit": most, "after": following})
        return f'</{self._resource.name}?{query}>; rel="next"'

    def _view(self, row: Record) -> Struct:
        # The database is trusted, so the row is not validated again.
        return self._resource.view(**{name: row[name] for name in self._view_fields})

    def _answer(self, row: Record, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None) -> Response:
        return json_response(self._view(row), status, {"ETag": self._tag(row), **(headers or {})})


async def _say_origin(tx: Connection) -> None:
    """Lets the transaction say who asked and in which trace, for the events that it writes."""
    here = context.current()
    if here is not None and (here.sampled or here.actor):
        await tx.execute(_ORIGIN, here.traceparent if here.sampled else "", here.actor or "")


# --- entity tags --------------------------------------------------------------------------------------------


def _if_match(request: Request) -> frozenset[str] | None:
    """The versions of which it must be one; None if any will do. Weak tags count: each names one version."""
    tags = _tags(request, "if-match")
    return None if "*" in tags or not tags else frozenset(tag.partition(".")[0] for tag in tags)


def _tags(request: Request, header: str) -> frozenset[str]:
    """What a list of entity tags names. Quotes may be missing (shells eat them); nonsense matches nothing."""
    lists = request.headers.getlist(header)
    return frozenset(tag.strip().removeprefix("W/").strip('"') for list_ in lists for tag in list_.split(","))
