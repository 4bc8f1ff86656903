"""Who asked, in which trace, and until when: what travels with a request, in one context variable.

The stack (`stack.py`) reads it from the request's headers and enters it; the log lines, spans, database calls and
calls to peers below read it back without its being passed along. It crosses to a peer as headers:

    traceparent   00-<trace>-<span>-<flags>        W3C Trace Context, level 1
    tracestate    what other vendors put there     passed on, not read
    X-Request-Id  up to 128 visible characters     kept, or made
    X-Deadline-Ms what is left, in milliseconds    may shorten the service's own limit, never lengthen it

A header that is not valid is as good as absent: a caller's broken tracing must not break its request.

Assumes header names in lower case, as ASGI gives them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Final

import msgspec

from tally.resilience.deadline import Deadline

# Draws this many random bits. An argument, so that the simulation's ids come from its seed.
Bits = Callable[[int], int]

_CARRIED: Final = frozenset((b"traceparent", b"tracestate", b"x-request-id", b"x-deadline-ms"))
_TRACEPARENT_LENGTH: Final = 55
_HEX: Final = b"0123456789abcdef"
_DASH: Final = ord("-")
_NO_TRACE_ID: Final = "0" * 32
_NO_SPAN_ID: Final = "0" * 16
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")
# One member of the list of W3C Trace Context 3.3.1. Members are matched one by one: a single expression for the whole
# list would try every split of its blanks, and the value comes from anybody.
_TRACESTATE_MEMBER: Final = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{1,256}")
_TRACESTATE_MAX: Final = 512
_TRACESTATE_MEMBERS_MAX: Final = 32


class Context(msgspec.Struct, frozen=True, gc=False):
    """One request's surroundings. Frozen: whoever needs another one enters another one."""

    request_id: str
    trace_id: str
    """32 lower-case hexadecimal digits."""
    span_id: str
    """16 of them: the span that is open now, and so the parent of what is begun next."""
    sampled: bool | None = None
    """Whether the trace is recorded: the caller's word, or our sampler's. None: nobody has decided yet."""
    tracestate: str = ""
    parent_id: str = ""
    """The span above that one; empty where the trace begins here."""
    deadline: Deadline | None = None
    actor: str | None = None
    """Who asked, once the token has been verified; goes to the audit trail, never to a metric."""

    @property
    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"

    def with_actor(self, actor: str) -> Context:
        return msgspec.structs.replace(self, actor=actor)

    def outgoing(self) -> dict[str, str]:
        """The headers that carry it to a peer, without the deadline (that depends on when they are sent)."""
        headers = {"traceparent": self.traceparent, "X-Request-Id": self.request_id}
        if self.tracestate:
            headers["tracestate"] = self.tracestate
        return headers

    def __repr__(self) -> str:
        return f"<Context request={self.request_id} trace={self.trace_id[:8]} span={self.span_id[:8]}>"


_current: ContextVar[Context | None] = ContextVar("tally_context", default=None)

current: Final = _current.get
"""The context of the running task, or None outside a request."""


def deadline() -> Deadline | None:
    """The deadline of the running task's request; None where there is none."""
    context = _current.get()
    return None if context is None else context.deadline


def enter(context: Context) -> Token[Context | None]:
    """Make it the current one; give the token to `leave`. `use` does both."""
    return _current.set(context)


def leave(token: Token[Context | None]) -> None:
    _current.reset(token)


class use:
    """`with use(context):` makes it the current one for the block."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Context:
        self._token = _current.set(self._context)
        return self._context

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._token)


def fresh(deadline: Deadline | None = None, bits: Bits = random.getrandbits) -> Context:
    """A context that continues nothing: for a batch, a settle round, a message that was consumed."""
    drawn = _drawn(bits)
    return Context(drawn[:32], drawn[32:64], drawn[64:], deadline=deadline)


def arrived(
    headers: Iterable[tuple[bytes, bytes]],
    now_s: float,
    deadline_max_s: float,
    bits: Bits = random.getrandbits,
) -> Context:
    """The context of a request that came in with these headers. Never fails."""
    request_id = ""
    trace: _Carried | None = None
    tracestate: list[bytes] = []
    deadline: Deadline | None = None
    for name, value in headers:
        if name not in _CARRIED:
            continue
        if name == b"traceparent":
            # Two of them contradict each other: as good as none.
            trace = _carried(value) if trace is None else _NOTHING
        elif name == b"x-request-id":
            request_id = value.decode("ascii") if _REQUEST_ID.fullmatch(value) else ""
        elif name == b"x-deadline-ms":
            deadline = Deadline.from_header(value.decode("latin-1"), now_s)
        else:
            tracestate.append(value)
    if deadline is None or deadline.at_s > now_s + deadline_max_s:
        deadline = Deadline(now_s + deadline_max_s)
    drawn = _drawn(bits)
    if trace is None or trace is _NOTHING:
        return Context(request_id or drawn[:32], drawn[32:64], drawn[64:], deadline=deadline)
    trace_id, parent_id, sampled = trace
    return Context(
        request_id or drawn[:32],
        trace_id,
        drawn[64:],
        sampled,
        _tracestate(tracestate) if tracestate else "",
        parent_id,
        deadline,
    )


def linked(traceparent: str | None) -> Context | None:
    """What a stored or received `traceparent` (an outbox row's, a message's) points at, to link a span to; or None."""
    trace_id, span_id, sampled = _carried((traceparent or "").encode("latin-1", "replace"))
    return Context("", trace_id, span_id, sampled) if trace_id else None


# What a valid `traceparent` says: trace id, span id, sampled.
_Carried = tuple[str, str, bool]
_NOTHING: Final[_Carried] = ("", "", False)


def _carried(value: bytes) -> _Carried:
    head, more = value[:_TRACEPARENT_LENGTH], value[_TRACEPARENT_LENGTH:]
    # Digits and three dashes, the dashes where they belong. (Two passes in C; half the time of an expression.)
    if len(head) < _TRACEPARENT_LENGTH or head.translate(None, _HEX) != b"---":
        return _NOTHING
    if not head[2] == head[35] == head[52] == _DASH or head[:2] == b"ff":
        return _NOTHING
    # A version that we don't know may say more after the flags; version 00 may not.
    if more and (head[:2] == b"00" or more[:1] != b"-"):
        return _NOTHING
    text = head.decode("ascii")
    trace_id, span_id = text[3:35], text[36:52]
    if trace_id == _NO_TRACE_ID or span_id == _NO_SPAN_ID:
        return _NOTHING
    return trace_id, span_id, text[54] in "13579bdf"


def _tracestate(values: list[bytes]) -> str:
    joined = b",".join(values).decode("latin-1")
    if len(joined) > _TRACESTATE_MAX:
        return ""
    members = [stripped for member in joined.split(",") if (stripped := member.strip(" \t"))]
    if len(members) > _TRACESTATE_MEMBERS_MAX or not all(map(_TRACESTATE_MEMBER.fullmatch, members)):
        return ""
    return ",".join(members)


def _drawn(bits: Bits) -> str:
    """80 random hexadecimal digits: a request id (32), a trace id (32) and a span id (16) at the price of one."""
    return f"{bits(320):080x}"
