"""Takes the resilience layer out of any service that starts with this folder in PYTHONPATH and BENCH_BARE=1.

Python imports a module of this name at every start, so the product needs no switch of its own. What is left is one
attempt per call, with its deadline: no retry, breaker, bulkhead or hedge, no shedding, no fault switch, no tokens.
"""

import os

if os.environ.get("BENCH_BARE"):
    os.environ["TALLY_TOKEN_CHECK"] = "off"

    from tally.chassis import app, auth, calls
    from tally.chassis.client import Outcome
    from tally.resilience.deadline import Deadline

    async def _post(self: calls.Calls, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> Outcome:
        return await self._client.post(peer, path, body, kind=kind, deadline=deadline)

    calls.Calls.post = _post  # type: ignore[method-assign]
    calls.Calls.unavailable_s = lambda self, peer, kind: None  # type: ignore[method-assign]
    app.shedding = lambda inner, clock, signals: inner  # type: ignore[attr-defined, assignment]
    auth.token_source = lambda settings, name, clock: None  # type: ignore[assignment]
