"""Invariants of the answers themselves: in time, and logical.

A service that was itself killed, paused or restarted owes no answer to who was waiting then. The harness measures how
long it was not scheduled itself, and that is not held against anybody.
"""

from __future__ import annotations

from collections.abc import Mapping

from tally.chassis.problems import CONTENT_TYPE as PROBLEM
from tally.chassis.problems import Code
from tests.chaos.history import GUESTS, Completed, History, Kind, Request, Trouble
from tests.chaos.lives import GRACE_NS, Lives
from tests.chaos.verdict import Found, Verdict, invariant


@invariant("no answer is later than its deadline and half a second, and none is missing while the service runs")
def within_deadline(lives: Lives, verdict: Verdict) -> Found:
    history = lives.history
    allowed_ns = int(history.header.request_deadline_s * 1e9) + GRACE_NS
    for request in history.requests:
        end = request.end
        if end is None:
            continue
        verdict.checked += 1
        late_ns = end.at_ns - request.start.at_ns - allowed_ns
        if late_ns <= 0 or _is_down(history, request):
            continue
        if late_ns > stalled_ns(history, request.start.at_ns, end.at_ns):
            yield f"{request!r} of {request.start.target} took {(late_ns + allowed_ns) / 1e9:.3f} s"


def _is_down(history: History, request: Request) -> bool:
    """Whether the service that was asked was itself killed, paused or restarted meanwhile."""
    assert request.end is not None
    return any(
        fault.target == request.start.target
        and fault.fault not in GUESTS
        and fault.at_ns < request.end.at_ns
        and (healed is None or request.start.at_ns < healed.at_ns)
        for fault, healed in history.faults
    )


def stalled_ns(history: History, from_ns: int, to_ns: int) -> int:
    """For how long somebody was kept from running between two times; several at once count once."""
    stalled_ns, counted_ns = 0, from_ns
    for stall in sorted(history.stalls, key=lambda stall: stall.at_ns - stall.lasted_ns):
        begin_ns, end_ns = max(stall.at_ns - stall.lasted_ns, counted_ns), min(stall.at_ns, to_ns)
        if end_ns > begin_ns:
            stalled_ns += end_ns - begin_ns
            counted_ns = end_ns
    return stalled_ns


@invariant("only logical errors: what is not 2xx is problem+json with a known code and its status, and never 500")
def only_logical_errors(lives: Lives, verdict: Verdict) -> Found:
    codes = lives.history.cast.codes
    for request in lives.history.requests:
        end = request.end
        if end is None or end.status is None:
            continue
        verdict.checked += 1
        if (wrong := _not_logical(end, codes)) is not None:
            yield f"{request!r} of {request.start.target} answered {end.status} {end.media}: {wrong}"


def _not_logical(end: Completed, codes: Mapping[str, Code]) -> str | None:
    if 200 <= (end.status or 0) < 300:
        return None
    if end.media != PROBLEM:
        return f"not a problem ({end.reason})"
    if end.code is None or end.code not in codes:
        return f"an unknown code {end.code!r}"
    if end.code == "internal" or end.status == 500:
        return "a bare 500"
    return None if codes[end.code].status == end.status else f"{end.code} is {codes[end.code].status}"


@invariant("a service that was not touched always answers: no connection is lost or refused for nothing")
def answers_while_up(lives: Lives, verdict: Verdict) -> Found:
    for request in lives.history.requests:
        end = request.end
        if end is None:
            continue
        verdict.checked += 1
        if end.trouble in (Trouble.LOST, Trouble.UNSENT) and not _is_down(lives.history, request):
            yield f"{request!r} of {request.start.target}: {end.reason}"


@invariant("who shows no token, or a wrong one, is refused (401 or 403), or shed before anybody looked")
def strangers_are_refused(lives: Lives, verdict: Verdict) -> Found:
    # That nothing was done for them, the other invariants tell: what they ask for is about operations that live.
    for request in lives.history.requests:
        end = request.end
        if request.start.kind is Kind.INTRUDE and end is not None and end.status is not None:
            verdict.checked += 1
            if end.status not in (401, 403) and end.code != "overloaded":
                yield f"{request!r} of {request.start.target} was answered {end.status}"


@invariant("what is no request gets one answer, 400, and its connection is closed")
def garble_is_refused(lives: Lives, verdict: Verdict) -> Found:
    for request in lives.history.requests:
        end = request.end
        if request.start.kind is Kind.GARBLE and end is not None and not _is_down(lives.history, request):
            verdict.checked += 1
            if end.status != 400 or end.reason is not None:
                yield f"{request!r} of {request.start.target}: {end.status} {end.reason or ''}"
