"""Every metric and span of Tally, declared once, each with a sentence.

A metric is an attribute of `Signals`; calling it with its label values gives the child to move:

    signals.compensations_total("create", "event-full", "killed").inc()
    signals.settlement_lag_seconds("attendance").set(1.4)

The name on the wire is `tally_` + the attribute, but for the HTTP durations, which have OpenTelemetry's names. A
metric appears in the exposition when it is first used or initialised, so that a gateway does not claim to have a
settlement lag of 0. Children are remembered here: asking prometheus_client for them costs four times what moving
them does.

A span joins the trace of `context.py`. Nothing configured (no `OTEL_EXPORTER_OTLP_ENDPOINT`, no
`OTEL_TRACES_EXPORTER`) means no exporter, and then a span costs a function call. With one, sampling is
parent-based, and the histograms' exemplars name the traces that were sampled.

    with signals.span("call", peer="author", kind="write") as span:
        ...
        span.set(outcome="recorded")

What happens to a request on the way, by rules that know of no span, is an event of the span that is open:

    signals.event("retry", peer="author", reason="silent")

Each service has its own `Signals` and registry, so several can live in one process.
"""

from __future__ import annotations

import itertools
import random
import sys
import threading
import traceback
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, Self, TypeVar, cast, overload

import msgspec
import prometheus_client
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics import MetricWrapperBase

from tally.chassis import context as contexts
from tally.chassis.context import Context

if TYPE_CHECKING:
    from opentelemetry.context import Context as OtelContext
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.sdk.trace.id_generator import IdGenerator
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
    from opentelemetry.trace import Link, SpanContext
    from opentelemetry.trace import Span as OtelSpan

Child = TypeVar("Child", bound=MetricWrapperBase)

# OpenTelemetry's advice for HTTP durations, with two finer steps: most calls here end within 5 ms.
_DURATIONS_S: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Family(Generic[Child]):
    """One metric of one service; called with label values, in the order of declaration, it gives their child."""

    __slots__ = ("_children", "_labels", "_metric")

    def __init__(self, metric: Child, labels: tuple[str, ...]) -> None:
        self._metric = metric
        self._labels = labels
        self._children: dict[tuple[str, ...], Child] = {}

    def __call__(self, *values: str) -> Child:
        child = self._children.get(values)
        return child if child is not None else self._remember(values)

    def initialise(self, **values: Iterable[str]) -> None:
        """Makes the children of every combination, so that a counter exists, at 0, before its first event.

        (A counter that appears with its first event has no increase for `rate` to see.)
        """
        if set(values) != set(self._labels):
            raise ValueError(f"the labels are {', '.join(self._labels)}, not {', '.join(values)}")
        for combination in itertools.product(*(values[label] for label in self._labels)):
            self(*combination)

    def _remember(self, values: tuple[str, ...]) -> Child:
        child = self._metric.labels(*values) if self._labels else self._metric
        self._children[values] = child
        return child


class _Histogram(prometheus_client.Histogram):
    """prometheus_client's, which finds the bucket by halving, not one by one: most observations have no exemplar."""

    def observe(self, amount: float, exemplar: dict[str, str] | None = None) -> None:
        if exemplar is not None:
            super().observe(amount, exemplar)
        else:
            self._sum.inc(amount)
            self._buckets[bisect_left(self._upper_bounds, amount)].inc(1)


class Metric(Generic[Child]):
    """A declaration. On the class it is itself; on a `Signals` it is that service's `Family`."""

    def __init__(
        self,
        kind: type[Child],
        sentence: str,
        *labels: str,
        buckets: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.kind = kind
        self.sentence = sentence
        self.labels = labels
        self._buckets = buckets
        self._full_name = name
        self._attribute = ""

    @property
    def name(self) -> str:
        """As it is in the exposition (a histogram's series add `_bucket`, `_sum` and `_count`)."""
        return self._full_name or f"tally_{self._attribute}"

    def __set_name__(self, owner: type, attribute: str) -> None:
        self._attribute = attribute

    @overload
    def __get__(self, signals: None, owner: type) -> Metric[Child]: ...
    @overload
    def __get__(self, signals: Signals, owner: type) -> Family[Child]: ...
    def __get__(self, signals: Signals | None, owner: type) -> Metric[Child] | Family[Child]:
        if signals is None:
            return self
        # Without a `__set__`, the instance's own attribute comes first from now on: this runs once per service.
        family = self._build(signals.registry)
        signals.__dict__[self._attribute] = family
        return family

    def _build(self, registry: prometheus_client.CollectorRegistry) -> Family[Child]:
        buckets: dict[str, Any] = {} if self._buckets is None else {"buckets": self._buckets}
        metric = self.kind(self.name, self.sentence, self.labels, registry=registry, **buckets)
        return Family(metric, self.labels)


def _counter(sentence: str, *labels: str) -> Metric[prometheus_client.Counter]:
    return Metric(prometheus_client.Counter, sentence, *labels)


def _gauge(sentence: str, *labels: str) -> Metric[prometheus_client.Gauge]:
    return Metric(prometheus_client.Gauge, sentence, *labels)


def _histogram(
    sentence: str, *labels: str, buckets: Sequence[float] = _DURATIONS_S, name: str | None = None
) -> Metric[prometheus_client.Histogram]:
    return Metric(_Histogram, sentence, *labels, buckets=buckets, name=name)


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


_NO_SPAN: Final = _NoSpan()


class Signals:
    """The metrics and spans of one service."""

    build_info = _gauge("1, with the version that runs: a new one marks a deployment.", "version")
    http_server_request_duration_seconds = _histogram(
        "How long requests to this service took, by route and status; what `Prefer: wait` waits for is left out.",
        "http_request_method",
        "http_route",
        "http_response_status_code",
        name="http_server_request_duration_seconds",
    )
    http_client_request_duration_seconds = _histogram(
        "How long single attempts of calls to a peer took; the outcome is reply, not_sent, silent or rejected.",
        "peer",
        "kind",
        "outcome",
        name="http_client_request_duration_seconds",
    )
    fanout_duration_seconds = _histogram(
        "How long it took until all participants of an operation had answered, or the deadline had passed.",
        "operation",
        "outcome",
    )
    fanout_calls_total = _counter(
        "Participants asked within operations, by what they answered.", "operation", "peer", "outcome"
    )
    batch_items = _histogram(
        "How many items the calls to a peer carried: 1 means that nothing was coalesced.",
        "peer",
        "kind",
        buckets=_ITEMS,
    )
    compensations_total = _counter(
        "Halves undone because the other side refused, by why and with what result.",
        "operation",
        "reason",
        "outcome",
    )
    breaker_state = _gauge(
        "The breaker of a peer and kind of call: 0 closed, 1 half-open, 2 open, 3 forced open, 4 forced closed, "
        "5 observing only.",
        "peer",
        "kind",
    )
    breaker_transitions_total = _counter("State changes of a breaker.", "peer", "kind", "from_state", "to_state")
    breaker_rejections_total = _counter("Calls not made because the breaker was open.", "peer", "kind")
    retries_total = _counter("Calls made again, by what had gone wrong.", "peer", "reason")
    retries_refused_total = _counter("Calls not made again because the retry budget was spent.", "peer")
    retry_budget_ratio = _gauge("Retries per call to a peer over the last seconds; the budget is 0.1.", "peer")
    bulkhead_in_use = _gauge("Calls to a peer under way now.", "peer")
    bulkhead_waiting = _gauge("Calls to a peer that wait for a place now.", "peer")
    bulkhead_rejections_total = _counter("Calls not made because too many to the peer were under way.", "peer", "kind")
    requests_in_flight = _gauge("Public requests under way now.")
    requests_limit = _gauge("How many public requests may be under way at once, as found by measuring.")
    shed_total = _counter("Requests refused early because of load, by what was full.", "reason")
    deadlines_exceeded_total = _counter(
        "Requests that were not answered before their deadline, or answered that it was over."
    )
    hedges_total = _counter("Reads sent a second time because the first was slow.", "peer")
    degraded_reads_total = _counter("Reads answered without one of the services, by which one.", "operation", "peer")
    settlement_lag_seconds = _gauge(
        "The age of the newest epoch that this process has settled: how long a lone half may live. Of several "
        "replicas one settles: look at the least.",
        "relationship",
    )
    epochs_total = _counter("Rounds of the settler: settled, or failed and begun anew.", "relationship", "outcome")
    settled_total = _counter(
        "Halves decided by the settler: confirmed, voided (they were alone) or forwarded (a cancel carried over).",
        "relationship",
        "outcome",
    )
    lone_halves = _gauge("Halves without a live peer in the round that ran last.", "relationship")
    seats_taken = _gauge("Seats taken, in all that have a capacity.", "relationship")
    seats_capacity = _gauge("Seats that there are, in all that have a capacity.", "relationship")
    outbox_rows = _gauge("Events in the outbox that have not been published.")
    outbox_oldest_seconds = _gauge("The age of the oldest event that has not been published.")
    published_total = _counter("Events handed to the stream and acknowledged by it.")
    publish_failures_total = _counter("Events that the stream did not acknowledge in time; they are published again.")
    slot_lag_bytes = _gauge("How much of the database's log waits for the relay (TALLY_RELAY=wal).")
    stream_connected = _gauge("1 while the stream can be reached.")
    stream_pending = _gauge("Messages of the stream that a consumer has not been given yet.", "consumer")
    consumed_total = _counter(
        "Messages from the stream, by what became of them: applied, duplicate, parked or failed.",
        "consumer",
        "outcome",
    )
    redelivered_total = _counter("Messages that the stream delivered more than once.", "consumer")
    projection_lag_seconds = _gauge(
        "How long the newest event that was applied had been waiting; 0 when nothing is left to apply.", "projection"
    )
    parked_messages = _gauge("Messages set aside because they could not be applied.", "consumer")
    rebuild_progress_ratio = _gauge("How far the rebuild of the read view is; 1 when none is under way.")
    mails_total = _counter("Mails, by kind and by what became of them: sent, failed or suppressed.", "kind", "outcome")
    mails_waiting = _gauge("Mails that have not been accepted by the mail server.")
    mail_oldest_seconds = _gauge("The age of the oldest mail that has not been accepted.")
    deferred_attempts_total = _counter("Tries at deferred operations, by how they ended.", "outcome")
    operation_reports_total = _counter(
        "What the gateway reports of operations to the operation log: sent, or dropped while the stream was away.",
        "outcome",
    )
    restoring = _gauge("1 while the database catches up after it was restored from a backup.")
    operations = _gauge("Operations by state.", "state")
    operation_oldest_seconds = _gauge("The age of the oldest operation in a state.", "state")
    invariant_violations_total = _counter("Broken promises. 0, always.", "invariant")
    tokens_refused_total = _counter("Calls refused for their service token, by what was wrong with it.", "reason")
    token_expires_seconds = _gauge("How long the token that is shown to a peer is still valid; 0 without one.", "peer")
    certificate_expires_seconds = _gauge("How long the certificate of the own TLS ports is still valid.")
    fault_active = _gauge("1 while a fault for an experiment is switched on.", "fault")
    database_connections = _gauge("Connections to the own database: in use, idle, or being replaced.", "state")
    database_waiting = _gauge("Calls that wait for a database connection now.")
    database_refused_total = _counter("Calls refused because no connection became free in time.")

    def __init__(
        self,
        service: str,
        *,
        environ: Mapping[str, str] | None = None,
        span_exporter: SpanExporter | None = None,
        process: bool = False,
    ) -> None:
        """`environ` is asked for OpenTelemetry's variables (None: no tracing); a `span_exporter` is for tests,
        and gets each span as it ends. `process` adds the memory, CPU and file descriptors of the process."""
        # Each series would come with one that says since when; nothing of ours reads it.
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.service = service
        self.registry = prometheus_client.CollectorRegistry()
        if process:
            prometheus_client.ProcessCollector(registry=self.registry)
        environ = environ or {}
        wanted = span_exporter is not None or _wanted(environ)
        self._tracing = _Tracing(service, environ, span_exporter) if wanted else None
        self.span: OpenSpan = _no_span if self._tracing is None else self._tracing.span
        self.event: TellEvent = _no_event if self._tracing is None else _event

    @property
    def traced(self) -> bool:
        """Spans are recorded by somebody."""
        return self._tracing is not None

    def server_span(self, context: Context, **attributes: Any) -> SpanBlock:
        """The span of a request: the one that `context` was drawn for, below the caller's. For the stack only."""
        return _NO_SPAN if self._tracing is None else self._tracing.server_span(context, attributes)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the best format that the `Accept` header takes, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type

    def close(self, wait_s: float = 2.0) -> None:
        """Sends the spans that wait, or gives up on them. Blocks for `wait_s` at most."""
        if self._tracing is not None:
            # By a thread of its own: the exporter tries for longer than a stopping process has time.
            closing = threading.Thread(target=self._tracing.close, name="last spans", daemon=True)
            closing.start()
            closing.join(wait_s)

    @classmethod
    def catalogue(cls) -> tuple[Metric[Any], ...]:
        """Every declaration, for the tests that hold dashboards and documentation against it."""
        return tuple(metric for metric in vars(cls).values() if isinstance(metric, Metric))

    def __repr__(self) -> str:
        return f"<Signals {self.service} {'traced' if self.traced else 'not traced'}>"


def exemplar(context: Context | None) -> dict[str, str] | None:
    """What links an observation to its trace; None where nobody recorded that trace."""
    return {"trace_id": context.trace_id} if context is not None and context.sampled else None


def _no_span(name: str, *, links: Iterable[Context] = (), **attributes: Any) -> SpanBlock:
    return _NO_SPAN


def _no_event(name: str, **attributes: Any) -> None:
    return None


#: The span of this context that was opened last; it may have ended, where a task outlives it.
_open: Final[ContextVar[OtelSpan | None]] = ContextVar("tally_open_span", default=None)


def _event(name: str, **attributes: Any) -> None:
    if name not in EVENTS:
        raise ValueError(f"{name} is no event of a span")
    span = _open.get()
    if span is not None and span.is_recording():
        span.add_event(name, _named(attributes))


def _wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get("OTEL_TRACES_EXPORTER") == "none":
        return False
    return any(environ.get(name) for name in _ASKS_FOR_SPANS)


_ASKS_FOR_SPANS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)


class _Tracing:
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
            return _NO_SPAN
        return self._begin(name, context, pointed, attributes)

    def server_span(self, context: Context, attributes: Mapping[str, Any]) -> SpanBlock:
        return _NO_SPAN if context.sampled is False else self._begin("request", context, [], attributes)

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
