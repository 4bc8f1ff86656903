"""A participant as its callers see it: messages in, replies or failures out.

Assumes a transport that delivers bytes to a service by name, and answers with what became of them as a value.
Failures are told apart by what they prove: a message that was never sent can't have been acted upon.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar
from uuid import UUID

import msgspec

from tally.protocol import messages as wire
from tally.protocol.relationship import Relationship, Side
from tally.resilience.deadline import Deadline

Reply = TypeVar("Reply")


@dataclass(frozen=True, slots=True)
class Failed:
    """No reply. ``sent`` is false only if it is certain that the participant has not acted, and never will."""

    sent: bool
    reason: str
    retry_after_s: float | None = None


class Transport(Protocol):
    """How bytes reach a service. ``kind`` groups calls that fail together (reads, writes, settling)."""

    async def post(self, peer: str, path: str, body: bytes, *, kind: str, deadline: Deadline) -> bytes | Failed: ...

    def silent_since_ms(self, peer: str) -> int | None:
        """Since when (Unix milliseconds) ``peer`` has answered nothing; None if it answered last time."""
        ...

    def unavailable_s(self, peer: str, kind: str) -> float | None:
        """Seconds until ``peer`` will be tried again, if it is known to be unreachable now; else None."""
        ...


class Peer:
    """One side of one relationship, over a transport."""

    def __init__(
        self, relationship: Relationship, side: Side, transport: Transport, *, kind: str | None = None
    ) -> None:
        self.service = relationship.end(side).service
        self.side = side
        self._prefix = f"/internal/{relationship.name}/"
        self._transport = transport
        self._kind = kind

    def unavailable_s(self, kind: str) -> float | None:
        """Seconds until this side will be tried again, if it is known to be unreachable now."""
        return self._transport.unavailable_s(self.service, self._kind or kind)

    @property
    def silent_since_ms(self) -> int | None:
        """Since when this side has answered nothing; None if it answered last time."""
        return self._transport.silent_since_ms(self.service)

    async def record(self, items: Sequence[wire.RecordItem], deadline: Deadline) -> wire.Verdicts | Failed:
        return await self._ask("record", "write", wire.Record(list(items)), _VERDICTS, deadline)

    async def resolve(self, ops: Sequence[UUID], deadline: Deadline) -> wire.Verdicts | Failed:
        return await self._ask("resolve", "write", wire.Ops(list(ops)), _VERDICTS, deadline)

    async def kill(self, items: Sequence[wire.ProofItem], deadline: Deadline) -> wire.Verdicts | Failed:
        return await self._ask("kill", "write", wire.Proofs(list(items)), _VERDICTS, deadline)

    async def cancel(self, ops: Sequence[UUID], deadline: Deadline) -> wire.Verdicts | Failed:
        return await self._ask("cancel", "write", wire.Ops(list(ops)), _VERDICTS, deadline)

    async def ack(self, items: Sequence[wire.ProofItem], deadline: Deadline) -> wire.Verdicts | Failed:
        return await self._ask("ack", "write", wire.Proofs(list(items)), _VERDICTS, deadline)

    async def forward(self, limit: int, deadline: Deadline) -> wire.Cancelled | Failed:
        return await self._ask("forward", "write", wire.Forward(limit), _CANCELLED, deadline)

    async def close(self, message: wire.Close, deadline: Deadline) -> wire.Closed | Failed:
        return await self._ask("close", "write", message, _CLOSED, deadline)

    async def settle(self, message: wire.Settle, deadline: Deadline) -> wire.Settled | Failed:
        return await self._ask("settle", "write", message, _SETTLED, deadline)

    async def rejoin(self, message: wire.Rejoin, deadline: Deadline) -> wire.Rejoined | Failed:
        return await self._ask("rejoin", "write", message, _REJOINED, deadline)

    async def mark(self, deadline: Deadline) -> wire.Marked | Failed:
        return await self._ask("mark", "read", wire.AskMark(), _MARKED, deadline)

    async def status(self, ops: Sequence[UUID], deadline: Deadline) -> wire.Statuses | Failed:
        return await self._ask("status", "read", wire.Ops(list(ops)), _STATUSES, deadline)

    async def find(self, items: Sequence[wire.PairItem], deadline: Deadline) -> wire.Founds | Failed:
        return await self._ask("find", "read", wire.Find(list(items)), _FOUNDS, deadline)

    async def list(self, message: wire.List, deadline: Deadline) -> wire.Lists | Failed:
        return await self._ask("list", "read", message, _LISTS, deadline)

    async def _ask(
        self,
        message: str,
        kind: str,
        body: msgspec.Struct,
        decoder: msgspec.json.Decoder[Reply],
        deadline: Deadline,
    ) -> Reply | Failed:
        reply = await self._transport.post(
            self.service,
            self._prefix + message,
            _ENCODER.encode(body),
            kind=self._kind or kind,
            deadline=deadline,
        )
        if isinstance(reply, Failed):
            return reply
        try:
            return decoder.decode(reply)
        except ValueError as error:
            # It answered 200 with something else: whatever it did, it did.
            return Failed(True, f"the reply to {message} makes no sense: {error}")


_ENCODER = msgspec.json.Encoder()
_VERDICTS = msgspec.json.Decoder(wire.Verdicts)
_CANCELLED = msgspec.json.Decoder(wire.Cancelled)
_CLOSED = msgspec.json.Decoder(wire.Closed)
_SETTLED = msgspec.json.Decoder(wire.Settled)
_REJOINED = msgspec.json.Decoder(wire.Rejoined)
_MARKED = msgspec.json.Decoder(wire.Marked)
_STATUSES = msgspec.json.Decoder(wire.Statuses)
_FOUNDS = msgspec.json.Decoder(wire.Founds)
_LISTS = msgspec.json.Decoder(wire.Lists)
