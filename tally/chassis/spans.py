"""The spans that there are, what may happen to them, and how they are opened; who records them is `tracing.py`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Literal, Protocol, Self

import msgspec

from tally.chassis.context import Context


class SpanKind(msgspec.Struct, frozen=True):
    """The declaration of a span."""

    sentence: str
    side: Literal["server", "client", "producer", "consumer", "internal"] = "internal"
    """OpenTelemetry's span kind."""


# The spans that there are; another name is refused.
SPANS: Final[Mapping[str, SpanKind]] = {
    "request": SpanKind("One request to this service, until its answer has been handed over.", "server"),
    "fan_out": SpanKind("One question put to several participants at once, until all answered or time is up."),
    "call": SpanKind("One attempt of one HTTP call to a peer.", "client"),
    "compensation": SpanKind("Undoing the half of an operation that was refused on the other side."),
    "settle": SpanKind("One round of the settler: both epochs closed, compared and repaired."),
    "confirm": SpanKind("What both sides hold is settled in one step; linked to the requests that created it."),
    "relay": SpanKind("One event published from the outbox; linked to what wrote it.", "producer"),
    "mail": SpanKind("One mail handed to the mail server; linked to what it tells of.", "client"),
    "consume": SpanKind("One message applied to a projection; linked to what caused it.", "consumer"),
}


# What may happen to the span that is open; another name is refused.
EVENTS: Final[Mapping[str, str]] = {
    "retry": "A call is made again, because of what had gone wrong.",
    "retry-refused": "A call is not made again, because the retry budget is spent.",
    "withheld": "A call is not made: its breaker is open, or too many to the peer are under way.",
    "hedge": "A read is sent a second time, because the first was slow.",
    "breaker": "A breaker changed its state by what this call was answered, or because it came.",
    "shed": "The request is refused early because of load.",
}


class Span(Protocol):
    """An open span: what can still be said of it."""

    def set(self, **attributes: Any) -> None:
        """Adds attributes; a name without a dot gets `tally.` in front."""
        ...

    def rename(self, name: str) -> None: ...

    def failed(self, reason: str) -> None:
        """Marks it as an error; an exception that leaves the block does so by itself."""
        ...


class SpanBlock(Protocol):
    """What `span(…)` gives to `with`."""

    def __enter__(self) -> Span: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OpenSpan(Protocol):
    """How a span is opened."""

    def __call__(self, name: str, *, links: Iterable[Context] = (), **attributes: Any) -> SpanBlock:
        """A span of `SPANS` below the current one.

        With `links` it begins a trace of its own that points at theirs, and is recorded if one of them is: for
        work that serves several requests, or that happens long after the one that caused it.
        """
        ...


class TellEvent(Protocol):
    """How something is told of the span that is open."""

    def __call__(self, name: str, **attributes: Any) -> None:
        """An event of `EVENTS`, now; of nothing, where no span is open or nobody records it."""
        ...


class _NoSpan:
    """The span that nobody records; one serves all."""

    __slots__ = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exit: object) -> None:
        return None

    def set(self, **attributes: Any) -> None:
        return None

    def rename(self, name: str) -> None:
        return None

    def failed(self, reason: str) -> None:
        return None


NO_SPAN: Final = _NoSpan()


def no_span(name: str, *, links: Iterable[Context] = (), **attributes: Any) -> SpanBlock:
    return NO_SPAN


def no_event(name: str, **attributes: Any) -> None:
    return None
