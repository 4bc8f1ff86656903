"""What the page shows, as one value, and how it is gathered: from this process, and from who was asked.

Assumes that nothing here waits for longer than a second, and that nothing secret is in any of it: no token, no
variable, no query, and no address unless the page may act.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from tally.chassis.calls import Calls
from tally.chassis.clock import Clock, utc
from tally.chassis.faults import Active, Faults
from tally.chassis.signals import Signals
from tally.gateway.observer import Compensation, Observed
from tally.gateway.ui.lookout import WITHIN_S, Lookout, Remembered, Seen, Unreached, Visitor, items_of
from tally.messaging.stream import Stream
from tally.protocol.relationship import Relationship

#: What was requested longer ago than this and has not ended is stuck.
STUCK_AFTER: Final = "10s"
_SHOWN_MAX: Final = 20
_OPERATIONS_S: Final = 3.0
_MAILS_S: Final = 2.0
_FAN_OUT: Final = "tally_fanout_duration_seconds"
_OPERATION_FIELDS: Final = ("id", "state", "age_s", "attempts", "reason", "service")
_MAIL_FIELDS: Final = ("id", "to", "subject", "date", "operation")


class Creates(Struct, frozen=True):
    """Creates since this process began: how many ended how, and how many took at most so many seconds."""

    outcomes: dict[str, int]
    buckets: list[tuple[float, int]]


class Listed(Struct, frozen=True, omit_defaults=True):
    """What another service was asked for. ``absent``: nobody has told us where it is; ``away``: it does not answer."""

    state: Literal["there", "away", "absent"]
    items: list[dict[str, Any]] = []
    detail: str = ""


class Breaker(Struct, frozen=True):
    """How calls of one kind to one peer stand."""

    peer: str
    kind: str
    state: str
    mode: str
    since_s: float
    cause: str
    retry_after_s: float | None
    calls: int
    failed: int
    rejected: int


class Snapshot(Struct, frozen=True):
    """Everything."""

    at: datetime
    services: list[Seen]
    breakers: list[Breaker]
    creates: Creates
    epoch_age_s: float | None
    operations: Listed
    compensations: list[Compensation]
    mails: Listed
    faults: list[Active] | None
    """None where they can't be switched on."""


class Snapshots:
    """Gathers snapshots."""

    def __init__(
        self,
        relationship: Relationship,
        lookout: Lookout,
        visitor: Visitor,
        calls: Calls,
        observed: Observed,
        stream: Stream,
        faults: Faults | None,
        signals: Signals,
        clock: Clock,
        *,
        directory_url: str | None,
        mail_url: str | None,
    ) -> None:
        self._ends = (relationship.left.entity, relationship.right.entity)
        self._lookout = lookout
        self._visitor = visitor
        self._calls = calls
        self._observed = observed
        self._stream = stream
        self._faults = faults
        # (One metric is collected each second, not all of them.)
        self._fan_out = signals.registry.restricted_registry([f"{_FAN_OUT}_count", f"{_FAN_OUT}_bucket"])
        self._clock = clock
        stuck = f"/operation?older_than={STUCK_AFTER}&limit={_SHOWN_MAX}"
        self._operations = Remembered(lambda: self._list(directory_url, stuck, self._operation), _OPERATIONS_S)
        self._mails = Remembered(lambda: self._list(mail_url, f"/mail?limit={_SHOWN_MAX}", _mail), _MAILS_S)

    async def take(self) -> bytes:
        """One snapshot, as JSON."""
        now_s = self._clock.monotonic_s()
        services, operations, mails = await asyncio.gather(
            self._lookout.look(), self._operations.get(now_s), self._mails.get(now_s)
        )
        now_ms = self._clock.now_ms()
        closed_ms = self._lookout.closed_ms
        return msgspec.json.encode(
            Snapshot(
                at=utc(now_ms),
                services=[*services, self._broker()],
                breakers=self._breakers(),
                creates=self._creates(),
                epoch_age_s=None if closed_ms is None else max(0.0, (now_ms - closed_ms) / 1000),
                operations=operations,
                compensations=list(reversed(self._observed.compensations)),
                mails=mails,
                faults=None if self._faults is None else self._faults.active(),
            )
        )

    def _broker(self) -> Seen:
        if self._stream.connected:
            return Seen("stream", "up")
        return Seen("stream", "down", "not connected: nothing can be deferred, and what happens is told later")

    def _breakers(self) -> list[Breaker]:
        return [
            Breaker(
                one.peer, one.kind, one.breaker.state.value, one.breaker.mode.value, one.breaker.since_s,
                one.breaker.cause, one.breaker.retry_after_s, one.breaker.calls, one.breaker.failed,
                one.breaker.rejected,
            )
            for one in self._calls.snapshot()
        ]  # fmt: skip

    def _creates(self) -> Creates:
        outcomes: dict[str, int] = {}
        buckets: dict[float, int] = {}
        for family in self._fan_out.collect():
            for sample in family.samples:
                if sample.labels["operation"] != "create":
                    continue
                if sample.name.endswith("_count"):
                    outcomes[sample.labels["outcome"]] = int(sample.value)
                elif (at_most_s := float(sample.labels["le"])) != float("inf"):
                    buckets[at_most_s] = buckets.get(at_most_s, 0) + int(sample.value)
        return Creates(outcomes, sorted(buckets.items()))

    async def _list(self, url: str | None, path: str, shown: Any) -> Listed:
        if url is None:
            return Listed("absent")
        try:
            answer = await self._visitor.ask("GET", url.rstrip("/") + path, within_s=WITHIN_S)
        except Unreached as error:
            return Listed("away", detail=str(error))
        if (items := items_of(answer)) is None:
            return Listed("away", detail=f"it answers {answer.status}")
        return Listed("there", [shown(item) for item in items[:_SHOWN_MAX]])

    def _operation(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {name: item[name] for name in (*_OPERATION_FIELDS, *self._ends) if item.get(name) is not None}


def _mail(item: Mapping[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in _MAIL_FIELDS if item.get(name) is not None}
