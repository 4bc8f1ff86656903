"""A participant over HTTP: ``POST /internal/{relationship}/{message}``.

Assumes the chassis' stack around it (deadline, size limit, who may call). An answer that is an error says
whether anything was done: ``outcome-unknown`` means that it may have been, the others that it wasn't.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.database_faults import DatabaseFault
from tally.chassis.database_faults import problem as database_problem
from tally.chassis.http import BACKGROUND, Route, encoded_response
from tally.chassis.problems import Problem
from tally.halves.participant import BadMessage, Participant
from tally.halves.store import Restoring

_PROBLEMS = (
    "bad-request",
    "service-unavailable",
    "overloaded",
    "deadline-exceeded",
    "contended",
    "outcome-unknown",
)

#: Messages that change nothing, so that no outcome of theirs is ever unknown.
_READS = frozenset({"forward", "mark", "status", "find", "list"})
#: What a restorer asks every few seconds for as long as it lives.
_BACKGROUND = frozenset({"mark"})


def routes(participant: Participant, clock: Clock) -> list[Route]:
    """One route per message of the protocol that this side answers."""
    return [
        Route(
            "POST",
            f"/internal/{participant.relationship.name}/{message}",
            _handler(participant, message, clock),
            f"{message.upper()} to the {participant.side.value} side: a batch, answered item by item.",
            problems=_PROBLEMS,
            tags=("internal",),
        )
        for message in participant.messages
    ]


def _handler(participant: Participant, message: str, clock: Clock) -> Callable[[Request], Awaitable[Response]]:
    service = participant.relationship.end(participant.side).service

    async def handle(request: Request) -> Response:
        if message in _BACKGROUND:
            request.scope[BACKGROUND] = True
        body = await request.body()
        deadline = context.deadline()
        if deadline is not None and deadline.expired(clock.monotonic_s()):
            raise Problem("deadline-exceeded", "It came after its deadline, and was not done.", service=service)
        try:
            return encoded_response(await participant.answer(message, body))
        except BadMessage as error:
            raise Problem("bad-request", str(error), service=service) from None
        except Restoring:
            detail = "This database was restored from a backup and is catching up."
            raise Problem("service-unavailable", detail, service=service) from None
        except DatabaseFault as fault:
            raise database_problem(fault, reading=message in _READS) from fault

    return handle
