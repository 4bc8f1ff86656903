"""Gathers what two participants say about one operation, within a deadline.

Assumes that whoever waits here owns the tickets: one that is not answered in time is given up, and then it is
known whether it ever left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from tally.gateway.coalescer import Ticket
from tally.halves.peer import Failed
from tally.protocol.relationship import Side

_WITHDRAWN = Failed(False, "the deadline passed before it was sent")
_SILENT = Failed(True, "no answer before the deadline")


async def gather(tickets: Mapping[Side, Ticket[Any, Any]], within_s: float) -> dict[Side, Any]:
    """The outcome of each ticket; after ``within_s`` the missing ones are given up."""
    timer = asyncio.get_running_loop().call_later(within_s, _give_up, tickets.values())
    try:
        return {side: await ticket.future for side, ticket in tickets.items()}
    except BaseException:
        _give_up(tickets.values())
        raise
    finally:
        timer.cancel()


def _give_up(tickets: Iterable[Ticket[Any, Any]]) -> None:
    for ticket in tickets:
        if not ticket.future.done():
            ticket.future.set_result(_SILENT if ticket.sent else _WITHDRAWN)
