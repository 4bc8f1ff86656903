"""Spans recorded by the OpenTelemetry SDK, where its variables ask for that."""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, cast

import msgspec

from tally.chassis import context as contexts
from tally.chassis.context import Context
from tally.chassis.spans import EVENTS, NO_SPAN, SPANS, SpanBlock

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
    from opentelemetry.trace import Link, SpanContext
    from opentelemetry.trace import Span as OtelSpan

#: The span of this context that was opened last; it may have ended, where a task outlives it.
_open: Final[ContextVar[OtelSpan | None]] = ContextVar("tally_open_span", default=None)


def event(name: str, **attributes: Any) -> None:
    if name not in EVENTS:
        raise ValueError(f"{name} is no event of a span")
    span = _open.get()
    if span is not None and span.is_recording():
        span.add_event(name, _named(attributes))


def is_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in _ASKS_FOR_SPANS)


_ASKS_FOR_SPANS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)


class Tracing:
    """Spans by the OpenTelemetry SDK.

    The ids are those of `context.py`, which logs and calls to peers carry whether or not anybody records; the SDK
    is told them. What `sampled` of the current context says is final for all below it (parent-based sampling): an
    unsampled request pays nothing more.
    """

    def __init__(self, service: str, environ: Mapping[str, str], exporter: SpanExporter | None) -> None:
        # Imported here: 0.2 s and 23 MiB, for those only who trace.
        from opentelemetry import trace
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": service, "service.namespace": "tally"}
        self._trace = trace
        self._ids = _ContextIds()
        self._provider = TracerProvider(
            sampler=cast("Sampler", _LinkedSampler(_sampler(environ))),
            id_generator=cast("IdGenerator", self._ids),
            resource=Resource.create(named),
            shutdown_on_exit=False,
        )
        self._provider.add_span_processor(_processor(environ, exporter))
        self._tracer = self._provider.get_tracer("tally")

    def close(self) -> None:
        self._provider.shutdown()

    def span(self, name: str, *, links: Iterable[Context] = (), **attributes: Any) -> SpanBlock:
        above = contexts.current()
        pointed = [self._pointer(link, link.span_id, remote=True) for link in links]
        if above is None or pointed:
            context = msgspec.structs.replace(above or contexts.fresh(), **_new_trace())
        elif above.sampled is None:
            context = above  # nobody has decided yet: this is the first span of its trace
        elif above.sampled:
            context = msgspec.structs.replace(above, span_id=_new_span_id(), parent_id=above.span_id)
        else:
            return NO_SPAN
        return self._begin(name, context, pointed, attributes)

    def server_span(self, context: Context, attributes: Mapping[str, Any]) -> SpanBlock:
        return NO_SPAN if context.sampled is False else self._begin("request", context, [], attributes)

    def _begin(
        self, name: str, context: Context, links: Sequence[SpanContext], attributes: Mapping[str, Any]
    ) -> SpanBlock:
        trace = self._trace
        parent = trace.INVALID_SPAN_CONTEXT
        if context.parent_id:
            parent = self._pointer(context, context.parent_id, remote=name == "request")
        self._ids.trace_id, self._ids.span_id = int(context.trace_id, 16), int(context.span_id, 16)
        span = self._tracer.start_span(
            name,
            trace.set_span_in_context(trace.NonRecordingSpan(parent)),
            trace.SpanKind[SPANS[name].side.upper()],
            _named(attributes),
            [trace.Link(link) for link in links],
        )
        sampled = bool(span.get_span_context().trace_flags & trace.TraceFlags.SAMPLED)
        return _RecordedSpan(span, msgspec.structs.replace(context, sampled=sampled), trace)

    def _pointer(self, context: Context, span_id: str, *, remote: bool) -> SpanContext:
        trace = self._trace
        flags = trace.TraceFlags.SAMPLED if context.sampled else trace.TraceFlags.DEFAULT
        state = trace.TraceState.from_header([context.tracestate]) if context.tracestate else None
        pointer: SpanContext = trace.SpanContext(
            int(context.trace_id, 16), int(span_id, 16), remote, trace.TraceFlags(flags), state
        )
        return pointer


class _RecordedSpan:
    """An open span of the SDK, and the context below it."""

    __slots__ = ("_above", "_context", "_otel", "_token", "_trace")

    def __init__(self, otel: OtelSpan, context: Context, trace: Any) -> None:
        self._otel = otel
        self._context = context
        self._trace = trace
        self._token: Token[Context | None] | None = None
        self._above: Token[OtelSpan | None] | None = None

    def __enter__(self) -> Self:
        self._token = contexts.enter(self._context)
        self._above = _open.set(self._otel)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._token is not None and self._above is not None:
            _open.reset(self._above)
            contexts.leave(self._token)
        if error is not None and self._otel.is_recording():
            self._otel.add_event("exception", _without_message(error))
            self.failed(type(error).__name__)
        self._otel.end()

    def set(self, **attributes: Any) -> None:
        self._otel.set_attributes(_named(attributes))

    def rename(self, name: str) -> None:
        self._otel.update_name(name)

    def failed(self, reason: str) -> None:
        self._otel.set_status(self._trace.Status(self._trace.StatusCode.ERROR, reason))


class _ContextIds:
    """The SDK's id generator: says what it was told last. (Starting a span awaits nothing in between.)"""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        return self.trace_id

    def generate_span_id(self) -> int:
        return self.span_id

    def is_trace_id_random(self) -> bool:
        return True


class _LinkedSampler:
    """A span that begins a trace and is linked to others is recorded if one of them is; the rest is `base`'s.

    By ratio alone, a batch that serves a sampled request would mostly be missing from what the request shows.
    """

    def __init__(self, base: Sampler) -> None:
        from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON

        self._base, self._on, self._off = base, ALWAYS_ON, ALWAYS_OFF

    def should_sample(
        self,
        parent_context: OtelContext | None,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Any = None,
        links: Sequence[Link] | None = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        decides = self._base
        if links:
            decides = self._on if any(link.context.trace_flags.sampled for link in links) else self._off
        return decides.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"Linked{{{self._base.get_description()}}}"


def _sampler(environ: Mapping[str, str]) -> Sampler:
    """The one that `OTEL_TRACES_SAMPLER` names, always parent-based; every trace where it names none."""
    from opentelemetry.sdk.trace.sampling import DEFAULT_OFF, DEFAULT_ON, ParentBasedTraceIdRatio

    name = environ.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    if name == "traceidratio":
        return ParentBasedTraceIdRatio(float(environ.get("OTEL_TRACES_SAMPLER_ARG") or 1.0))
    return DEFAULT_OFF if name == "always_off" else DEFAULT_ON


def _processor(environ: Mapping[str, str], exporter: SpanExporter | None) -> Any:
    from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

    if exporter is not None:
        return SimpleSpanProcessor(exporter)
    if environ.get("OTEL_TRACES_EXPORTER") == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter(out=sys.stderr))
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return BatchSpanProcessor(OTLPSpanExporter())


def _without_message(error: BaseException) -> dict[str, str]:
    """What of an exception may leave the process: its kind, and where it was raised.

    Its message may quote anything: PostgreSQL's names the values of a row, a mail server's the recipient, an address
    its password. The SDK's `record_exception` would export it; the log has it, without what looks like a secret.
    """
    kind = type(error)
    return {
        "exception.type": kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}",
        "exception.stacktrace": "".join(traceback.format_tb(error.__traceback__)),
    }


def _named(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name if "." in name else f"tally.{name}": value if isinstance(value, str | int | float) else str(value)
        for name, value in attributes.items()
        if value is not None
    }


def _new_span_id() -> str:
    return f"{random.getrandbits(64):016x}"


def _new_trace() -> dict[str, Any]:
    drawn = contexts.fresh()
    return {
        "trace_id": drawn.trace_id,
        "span_id": drawn.span_id,
        "parent_id": "",
        "tracestate": "",
        "sampled": None,
    }
