"""`Idempotency-Key`: a POST that is sent again answers with what it made the first time.

The key is claimed in the transaction that makes the entity, so there is one iff there is the other. The claim
is a row with the key as primary key: whoever comes second waits on that index until the first has committed
(then it answers with the first one's entity) or rolled back (then it makes its own).

A key belongs to one request for 24 hours: the same key with another body or route is refused. Keys of all
clients share one space, as long as clients are not told apart; a key should be a UUID or as long as one.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Annotated, Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Meta, Struct
from starlette.requests import Request

from tally.chassis.database import Connection
from tally.chassis.http import HeaderParameter
from tally.chassis.problems import Problem
from tally.chassis.queries import load_queries

KEY: Final = HeaderParameter(
    "Idempotency-Key",
    "Repeated with the same key and body within 24 hours, the request answers with what it made at first.",
    Annotated[str, Meta(min_length=1, max_length=255, pattern="^[!-~]+$")],
)
PROBLEMS: Final = ("invalid-header", "idempotency-key-reused", "idempotency-in-flight")

_queries: Final = load_queries(Path(__file__).parent / "idempotency.sql")


def key_of(request: Request) -> str | None:
    """The request's key, if it has one; a Problem where that is not 1 to 255 visible ASCII characters."""
    key = request.headers.get(KEY.name)
    if key is not None and not re.fullmatch("[!-~]{1,255}", key):
        raise Problem(
            "invalid-header",
            "An Idempotency-Key has 1 to 255 visible ASCII characters; a UUID is a good one.",
            field=KEY.name,
        )
    return key


def fingerprint(route: str, body: Struct) -> bytes:
    """What tells two requests apart: the route and the body as it was understood, whatever its spelling."""
    return hashlib.sha256(route.encode() + b"\n" + msgspec.json.encode(body)).digest()


async def claim(tx: Connection, key: str, route: str, body: Struct, entity: UUID) -> UUID:
    """`entity` if the key was free: it is to be made now, in `tx`. Else what was made under the key.

    Problem if the key was used for another request, or if the wait for a request in flight took too long.
    """
    mine = fingerprint(route, body)
    await tx.execute(_queries.expire)
    try:
        if await tx.fetchval(_queries.claim, key, route, mine, entity) is not None:
            return entity
    except (asyncpg.LockNotAvailableError, asyncpg.QueryCanceledError) as error:
        raise Problem("idempotency-in-flight", "A request with this Idempotency-Key is in progress.") from error
    held = await tx.fetchrow(_queries.held, key)
    assert held is not None, "a key that blocked the claim is unexpired, and only expired ones are removed"
    if held["fingerprint"] != mine:
        raise Problem(
            "idempotency-key-reused",
            "This Idempotency-Key was used for a different request; take a fresh one.",
            field=KEY.name,
        )
    found: UUID = held["entity"]
    return found
