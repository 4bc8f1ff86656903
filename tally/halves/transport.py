"""The network between a gateway or settler and the participants: the service's calls, as the peers' transport.

Assumes that a participant's problem says whether anything was done (``tally.halves.routes``).
"""

from __future__ import annotations

from tally.chassis.calls import NOTHING_DONE, TURNED_AWAY, Calls
from tally.chassis.client import NotSent, Rejected, Reply, Silent
from tally.halves.peer import Failed
from tally.resilience.deadline import Deadline


class HttpTransport:
    """Messages over HTTP, with the policies of the service's calls."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> bytes | Failed:
        match await self._calls.post(peer, path, body, kind=kind, deadline=deadline):
            case Reply(content):
                return content
            case NotSent(reason, retry_after_s):
                return Failed(False, reason, retry_after_s)
            case Silent(reason):
                return Failed(True, reason)
            case Rejected(_, code, retry_after_s):
                return Failed(code not in NOTHING_DONE | TURNED_AWAY, code, retry_after_s)

    def silent_since_ms(self, peer: str) -> int | None:
        return self._calls.silent_since_ms(peer)

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        return self._calls.unavailable_s(peer, kind)
