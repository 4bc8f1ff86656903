"""Creates a relation: one parallel round trip, and what it takes when that does not end it.

Assumes that ``tally.protocol.gateway`` decides; here is only the doing. An attempt is one operation: its id is
used once, and a refusal that says nothing about the pair (another operation was in the way, its epoch was
closed) is followed by a fresh attempt after a random pause, until the deadline.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from random import Random
from uuid import UUID

from tally.chassis import context
from tally.chassis.clock import Clock
from tally.chassis.spans import Span
from tally.gateway import outcome
from tally.gateway.evidence import gather
from tally.gateway.observer import Observer
from tally.gateway.participants import Participants, Told
from tally.halves.peer import Failed
from tally.protocol import gateway as protocol
from tally.protocol import messages as wire
from tally.protocol import operation
from tally.protocol.gateway import SILENT, UNSENT, Dead, Evidence, Recorded
from tally.protocol.participant import Answer, Reason
from tally.protocol.relationship import Side
from tally.resilience.deadline import Deadline

#: Of the time that is left, what RECORD may take before its silence is a reason to ask.
_RECORD_SHARE = 0.6
#: With less time than this left, nothing more is sent.
_MARGIN_S = 0.01
#: Between two tries of the same step (a participant that refuses connections fails at once).
_PAUSE_S = 0.02
#: The longest pause before a fresh attempt; it starts at a fraction of this and doubles.
_BACK_OFF_MAX_S = 0.2
_BACK_OFF_FIRST_S = 0.01

#: Reasons that mean: the entity of that side does not exist (any more).
_GONE = frozenset({Reason.NOT_FOUND, Reason.DELETED, Reason.LOST})

#: Told of an attempt before it begins.
Begun = Callable[[UUID], Awaitable[None]]


@dataclass(slots=True)
class _Attempt:
    """One operation under way: what each side is known to have said, and what it believed before it was asked."""

    op: UUID
    left: UUID
    right: UUID
    pinned: Mapping[Side, UUID | None]
    evidence: dict[Side, Evidence]
    failures: dict[Side, Failed]

    def note(self, side: Side, told: Evidence, failure: Failed | None = None) -> None:
        self.evidence[side] = told
        if failure is not None:
            self.failures[side] = failure


def _origin() -> tuple[str | None, str | None]:
    """The trace, if somebody records it, and who asked: for the events of the operation."""
    here = context.current()
    return (None, None) if here is None else (here.traceparent if here.sampled else None, here.actor)


class _Refused(protocol.Refused, frozen=True):
    """A refusal after a side did not answer: what looks like contention may be nothing but its silence."""

    trouble: outcome.Unavailable


class Creator:
    """Creates relations at both participants."""

    def __init__(self, participants: Participants, clock: Clock, random: Random, observer: Observer) -> None:
        self._participants = participants
        self._clock = clock
        self._random = random
        self._observer = observer

    async def create(
        self, left: UUID, right: UUID, deadline: Deadline, begun: Begun | None = None
    ) -> outcome.CreateOutcome:
        """Relate ``left`` and ``right``; always answers by the deadline, and what it says stays true.

        ``begun`` is called with the id of each attempt before anything is sent for it; what it raises ends all.
        """
        pause_s = _BACK_OFF_FIRST_S
        while True:
            started_s = self._clock.monotonic_s()
            with self._observer.span("fan_out", operation="create") as span:
                result = await self._attempt(left, right, deadline, begun, span)
                label = _label(result)
                span.set(outcome=label)
            self._observer.fanned_out("create", label, self._clock.monotonic_s() - started_s)
            if not (isinstance(result, protocol.Refused) and protocol.worth_another_attempt(result)):
                return self._outcome(result)
            pause_s = min(2 * pause_s, _BACK_OFF_MAX_S)
            if self._left_s(deadline) <= pause_s + _MARGIN_S:
                return self._outcome(result)
            await asyncio.sleep(self._random.uniform(0, pause_s))

    # -- one attempt

    async def _attempt(
        self, left: UUID, right: UUID, deadline: Deadline, begun: Begun | None, span: Span
    ) -> protocol.Refused | outcome.CreateOutcome:
        if (refused := self._unreachable()) is not None:
            return refused
        pinned = await self._pins(deadline)
        op = operation.make(
            operation.next_time_ms(self._clock.now_ms(), self._participants.closed),
            self._random.getrandbits(76),
        )
        span.set(operation_id=op)
        if begun is not None:
            await begun(op)
        attempt = _Attempt(op, left, right, pinned, {Side.LEFT: SILENT, Side.RIGHT: SILENT}, {})
        await self._record(attempt, deadline, self._left_s(deadline) * _RECORD_SHARE)
        while True:
            expired = self._left_s(deadline) <= _MARGIN_S
            step = protocol.create(attempt.evidence[Side.LEFT], attempt.evidence[Side.RIGHT], expired=expired)
            match step:
                case protocol.Created():
                    self._observer.told(op, "recorded", left, right)
                    return outcome.Created(op)
                case protocol.Already(other):
                    assert isinstance(other, UUID)
                    return outcome.Already(other)
                case protocol.Refused():
                    self._observer.told(op, "refused", left, right, _why_refused(step))
                    return self._refused(step, attempt)
                case protocol.Unknown():
                    return self._unknown(attempt)
                case protocol.Kill(side, inc):
                    assert isinstance(inc, UUID)
                    await self._kill(attempt, side, inc, deadline)
                case protocol.KillUnsent(side):
                    if not await self._kill_unsent(attempt, side, deadline):
                        return self._unknown(attempt)
                case protocol.Resolve(sides):
                    await self._resolve(attempt, sides, deadline)
                case protocol.RecordAgain():
                    await self._record(attempt, deadline, self._left_s(deadline))

    async def _record(self, attempt: _Attempt, deadline: Deadline, within_s: float) -> None:
        """RECORD at both sides at once. Sent before and not answered now stays unknown, never unsent."""
        item = wire.RecordItem(attempt.op, attempt.left, attempt.right, *_origin())
        first = (
            not attempt.failures and attempt.evidence[Side.LEFT] is SILENT and attempt.evidence[Side.RIGHT] is SILENT
        )
        tickets = {one.side: one.record.submit(item, deadline) for one in self._participants.both}
        answers = await gather(tickets, within_s)
        for one in self._participants.both:
            told = answers[one.side]
            if isinstance(told, Failed):
                attempt.note(one.side, UNSENT if first and not told.sent else SILENT, told)
            else:
                attempt.note(one.side, told.evidence)
            self._observer.called("create", one.service, _said(told))

    async def _resolve(self, attempt: _Attempt, sides: tuple[Side, ...], deadline: Deadline) -> None:
        tickets = {side: self._participants[side].resolve.submit(attempt.op, deadline) for side in sides}
        for side, told in (await gather(tickets, self._left_s(deadline))).items():
            if isinstance(told, Failed):
                attempt.note(side, SILENT, told)
                await self._pause(deadline)
            else:
                attempt.note(side, told.evidence)

    async def _kill(self, attempt: _Attempt, side: Side, inc: UUID, deadline: Deadline) -> None:
        """KILL on the word of the other side; if that word is from before a restore, ask it again."""
        told = await self._told(attempt, side, inc, deadline)
        if isinstance(told, Failed):
            attempt.failures[side] = told
            await self._pause(deadline)
        elif told.verdict.answer is Answer.STALE:
            attempt.note(side.peer, SILENT)
        else:
            attempt.note(side, told.evidence)

    async def _kill_unsent(self, attempt: _Attempt, side: Side, deadline: Deadline) -> bool:
        """KILL because RECORD never left for the peer. False if that can't be proven to be safe."""
        pin = attempt.pinned[side]
        if pin is None:
            return False
        told = await self._told(attempt, side, pin, deadline)
        if isinstance(told, Failed):
            await self._pause(deadline)
            return True
        attempt.note(side, told.evidence)
        return told.verdict.answer is not Answer.STALE

    async def _told(self, attempt: _Attempt, side: Side, inc: UUID, deadline: Deadline) -> Told | Failed:
        reason = self._why(attempt, side.peer)
        with self._observer.span("compensation", operation_id=attempt.op, reason=reason) as span:
            ticket = self._participants[side].kill.submit(wire.ProofItem(attempt.op, inc), deadline)
            told: Told | Failed = (await gather({side: ticket}, self._left_s(deadline)))[side]
            span.set(outcome=_said(told))
        # What was not even sent is tried again, up to fifty times a second: that is no compensation yet.
        if not (isinstance(told, Failed) and not told.sent):
            self._observer.compensated("create", reason, _said(told), attempt.op)
        return told

    # -- around it

    def _unreachable(self) -> outcome.Unavailable | None:
        """A side that is known to be unreachable: then nothing is sent to the other either."""
        for participant in self._participants.both:
            if (retry_after_s := participant.peer.unavailable_s("write")) is not None:
                return outcome.Unavailable(participant.service, "its circuit is open", retry_after_s)
        return None

    async def _pins(self, deadline: Deadline) -> Mapping[Side, UUID | None]:
        """What each side believes its peer to be, before RECORD is sent; a new gateway has to ask."""
        left, right = self._participants.both
        if left.peer_inc is None or right.peer_inc is None:
            nothing = operation.make(operation.BEGINNING_MS, 0)
            new = [one for one in (left, right) if one.peer_inc is None]
            tickets = {one.side: one.status.submit(nothing, deadline) for one in new}
            await gather(tickets, self._left_s(deadline) / 4)
        return {Side.LEFT: left.peer_inc, Side.RIGHT: right.peer_inc}

    def _left_s(self, deadline: Deadline) -> float:
        return deadline.left_s(self._clock.monotonic_s())

    async def _pause(self, deadline: Deadline) -> None:
        await asyncio.sleep(min(_PAUSE_S, self._left_s(deadline)))

    def _why(self, attempt: _Attempt, side: Side) -> str:
        evidence = attempt.evidence[side]
        if isinstance(evidence, Dead):
            return evidence.why.value if evidence.why is not None else "dead"
        return "unsent"

    def _refused(
        self, refused: protocol.Refused, attempt: _Attempt
    ) -> protocol.Refused | outcome.Created | outcome.Unavailable:
        """A reason that will last is told even if the other side was out of reach."""
        reasons = {Side.LEFT: refused.left, Side.RIGHT: refused.right}
        if Reason.CANCELLED in reasons.values():
            # Only what both sides hold live is ever cancelled: it was created, and somebody has ended it since.
            # Another attempt would undo a cancel that was acknowledged.
            return outcome.Created(attempt.op)
        unsent = [side for side in Side if reasons[side] is UNSENT]
        if not _GONE.isdisjoint(reasons.values()):
            return refused
        if unsent:
            return self._out_of_reach(unsent[0], attempt)
        failed = next(iter(attempt.failures), None)
        return refused if failed is None else _Refused(refused.left, refused.right, self._out_of_reach(failed, attempt))

    def _out_of_reach(self, side: Side, attempt: _Attempt) -> outcome.Unavailable:
        failure = attempt.failures.get(side, Failed(False, "it was not reached"))
        return outcome.Unavailable(self._participants[side].service, failure.reason, failure.retry_after_s)

    def _unknown(self, attempt: _Attempt) -> outcome.Unknown:
        self._observer.told(attempt.op, "unknown", attempt.left, attempt.right)
        silent = [side for side in Side if not isinstance(attempt.evidence[side], Recorded)]
        return outcome.Unknown(attempt.op, self._participants[silent[0]].service if len(silent) == 1 else None)

    def _outcome(self, result: protocol.Refused | outcome.CreateOutcome) -> outcome.CreateOutcome:
        if not isinstance(result, protocol.Refused):
            return result
        reasons = {Side.LEFT: result.left, Side.RIGHT: result.right}
        missing = tuple(side for side, reason in reasons.items() if reason in _GONE)
        if missing:
            return outcome.NotFound(missing)
        if Reason.FULL in reasons.values():
            return outcome.Full()
        if Reason.TOO_EARLY in reasons.values() or Reason.TOO_LATE in reasons.values():
            return outcome.ClockSkew()
        if isinstance(result, _Refused):
            return result.trouble
        return outcome.Contended()


def _said(told: Told | Failed) -> str:
    """An outcome as a metric's label."""
    if isinstance(told, Failed):
        return "silent" if told.sent else "unsent"
    return told.verdict.answer.value


def _why_refused(refused: protocol.Refused) -> str:
    """The side that refused says why; the other one was undone for it."""
    reasons = [reason for reason in (refused.left, refused.right) if isinstance(reason, Reason)]
    return next((reason.value for reason in reasons if reason is not Reason.KILLED), "unsent")


def _label(result: object) -> str:
    match result:
        case outcome.Created() | outcome.Already():
            return "done"
        case outcome.Unknown():
            return "unknown"
        case _:
            return "refused"
