"""Gathers what two participants say about one operation, within a deadline.

Assumes that whoever waits here owns the tickets: one that is not answered in time is withdrawn, and then it is
known whether it ever left.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from tally.gateway.coalescer import Ticket
from tally.halves.peer import Failed
from tally.protocol.relationship import Side

_WITHDRAWN = Failed(False, "the deadline passed before it was sent")
_SILENT = Failed(True, "no answer before the deadline")


async def gather(tickets: Mapping[Side, Ticket[Any, Any]], within_s: float) -> dict[Side, Any]:
    """The outcome of each ticket; after ``within_s`` the missing ones are withdrawn."""
    try:
        async with asyncio.timeout(within_s):
            for ticket in tickets.values():
                await ticket.future
    except TimeoutError:
        pass
    return {side: _outcome(ticket) for side, ticket in tickets.items()}


def _outcome(ticket: Ticket[Any, Any]) -> Any:
    future = ticket.future
    if future.done() and not future.cancelled():
        return future.result()
    future.cancel()
    return _SILENT if ticket.sent else _WITHDRAWN
