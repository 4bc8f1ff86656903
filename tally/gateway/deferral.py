"""Takes requests that are to be carried out later, and says how they stand: the HTTP of deferred operations.

Assumes that what is stored in the stream is carried out (`deferred.py`). So a request is accepted when the broker has
stored it, refused when it was not even sent, and otherwise its outcome is unknown: its address tells.
"""

from __future__ import annotations

from http import HTTPStatus
from random import Random
from typing import Literal
from uuid import UUID

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context, idempotency
from tally.chassis.clock import Clock, utc
from tally.chassis.http import json_response
from tally.chassis.problems import Problem
from tally.gateway.notes import Notes
from tally.gateway.operations import Deferral, Operations, Standing, deferred_id
from tally.messaging.stream import Stream, StreamUnavailable


class Accepted(Struct, frozen=True):
    """A request that will be carried out; its address is in `Location`."""

    id: UUID
    state: Literal["deferred"] = "deferred"


class Desk:
    """Takes requests and answers questions about them."""

    def __init__(self, stream: Stream, operations: Operations, notes: Notes, clock: Clock, random: Random) -> None:
        self._stream = stream
        self._operations = operations
        self._notes = notes
        self._clock = clock
        self._random = random

    async def accept(self, request: Request, left: UUID, right: UUID) -> Response:
        """202: stored, and so carried out sooner or later."""
        id = deferred_id(self._clock.now_ms(), self._random.getrandbits(76))
        if not self._stream.connected:
            raise _unavailable("Nothing was recorded.")
        if (key := idempotency.key_of(request)) is not None:
            id = await self._claimed(key, left, right, id)
        await self._defer(self._deferral(id, left, right))
        headers = {"Location": f"/operation/{id}", "Preference-Applied": "respond-async"}
        return json_response(Accepted(id), HTTPStatus.ACCEPTED, headers)

    async def standing(self, id: UUID) -> Standing:
        """How a deferred operation stands."""
        try:
            standing = await self._operations.standing(id)
        except StreamUnavailable as error:
            raise _unavailable("How the operation stands is not known now.") from error
        if standing is None:
            raise Problem("operation-not-found", f"There is no operation {id}.", operation=id)
        return standing

    def _deferral(self, id: UUID, left: UUID, right: UUID) -> Deferral:
        here = context.current()
        return Deferral(
            id,
            left,
            right,
            utc(self._clock.now_ms()),
            here.traceparent if here is not None and here.sampled else None,
            here.actor if here is not None else None,
        )

    async def _claimed(self, key: str, left: UUID, right: UUID, id: UUID) -> UUID:
        """The operation of the key. A claim alone carries nothing out, so it may be lost or left behind."""
        try:
            held, same = await self._notes.claim(key, (left, right), id)
        except StreamUnavailable as error:
            raise _unavailable("Nothing was recorded.") from error
        if not same:
            detail = "This Idempotency-Key was used for a different request; take a fresh one."
            raise Problem("idempotency-key-reused", detail, field=idempotency.KEY.name)
        return held

    async def _defer(self, deferral: Deferral) -> None:
        """Store it, unless a request with the same key has done so: told twice, it would begin anew."""
        try:
            if await self._operations.standing(deferral.operation) is None:
                await self._operations.defer(deferral)
        except StreamUnavailable as error:
            detail = "The event stream did not say whether it has the request; the operation's address tells."
            raise Problem("outcome-unknown", detail, service="stream", operation=deferral.operation) from error


def _unavailable(what: str) -> Problem:
    return Problem("service-unavailable", f"The event stream can't be reached. {what}", service="stream")
