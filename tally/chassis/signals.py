"""Every metric of Tally, declared once, each with a sentence, and how spans are opened (`spans.py` declares them).

A metric is an attribute of `Signals`; calling it with its label values gives the child to move:

    signals.compensations_total("create", "event-full", "killed").inc()
    signals.settlement_lag_seconds("attendance").set(1.4)

The name on the wire is `tally_` + the attribute, but for the HTTP durations, which have OpenTelemetry's names. A
metric appears in the exposition when it is first used or initialised, so that a gateway does not claim to have a
settlement lag of 0.

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

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import prometheus_client
from prometheus_client.exposition import choose_encoder

from tally.chassis import tracing
from tally.chassis.context import Context
from tally.chassis.metrics import Metric, counter, gauge, histogram
from tally.chassis.spans import NO_SPAN, OpenSpan, SpanBlock, TellEvent, no_event, no_span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

_ITEMS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)


class Signals:
    """The metrics and spans of one service."""

    build_info = gauge("1, with the version that runs: a new one marks a deployment.", "version")
    http_server_request_duration_seconds = histogram(
        "How long requests to this service took, by route and status; what `Prefer: wait` waits for is left out.",
        "http_request_method",
        "http_route",
        "http_response_status_code",
        name="http_server_request_duration_seconds",
    )
    http_client_request_duration_seconds = histogram(
        "How long single attempts of calls to a peer took; the outcome is reply, not_sent, silent or rejected.",
        "peer",
        "kind",
        "outcome",
        name="http_client_request_duration_seconds",
    )
    fanout_duration_seconds = histogram(
        "How long it took until all participants of an operation had answered, or the deadline had passed.",
        "operation",
        "outcome",
    )
    fanout_calls_total = counter(
        "Participants asked within operations, by what they answered.", "operation", "peer", "outcome"
    )
    batch_items = histogram(
        "How many items the calls to a peer carried: 1 means that nothing was coalesced.",
        "peer",
        "kind",
        buckets=_ITEMS,
    )
    compensations_total = counter(
        "Halves undone because the other side refused, by why and with what result.",
        "operation",
        "reason",
        "outcome",
    )
    breaker_state = gauge(
        "The breaker of a peer and kind of call: 0 closed, 1 half-open, 2 open, 3 forced open, 4 forced closed, "
        "5 observing only.",
        "peer",
        "kind",
    )
    breaker_transitions_total = counter("State changes of a breaker.", "peer", "kind", "from_state", "to_state")
    breaker_rejections_total = counter("Calls not made because the breaker was open.", "peer", "kind")
    retries_total = counter("Calls made again, by what had gone wrong.", "peer", "reason")
    retries_refused_total = counter("Calls not made again because the retry budget was spent.", "peer")
    retry_budget_ratio = gauge("Retries per call to a peer over the last seconds; the budget is 0.1.", "peer")
    bulkhead_in_use = gauge("Calls to a peer under way now.", "peer")
    bulkhead_waiting = gauge("Calls to a peer that wait for a place now.", "peer")
    bulkhead_rejections_total = counter("Calls not made because too many to the peer were under way.", "peer", "kind")
    requests_in_flight = gauge("Public requests under way now.")
    requests_limit = gauge("How many public requests may be under way at once, as found by measuring.")
    shed_total = counter("Requests refused early because of load, by what was full.", "reason")
    deadlines_exceeded_total = counter(
        "Requests that were not answered before their deadline, or answered that it was over."
    )
    hedges_total = counter("Reads sent a second time because the first was slow.", "peer")
    degraded_reads_total = counter("Reads answered without one of the services, by which one.", "operation", "peer")
    settlement_lag_seconds = gauge(
        "The age of the newest epoch that this process has settled: how long a lone half may live. Of several "
        "replicas one settles: look at the least.",
        "relationship",
    )
    epochs_total = counter("Rounds of the settler: settled, or failed and begun anew.", "relationship", "outcome")
    settled_total = counter(
        "Halves decided by the settler: confirmed, voided (they were alone) or forwarded (a cancel carried over).",
        "relationship",
        "outcome",
    )
    lone_halves = gauge("Halves without a live peer in the round that ran last.", "relationship")
    seats_taken = gauge("Seats taken, in all that have a capacity.", "relationship")
    seats_capacity = gauge("Seats that there are, in all that have a capacity.", "relationship")
    outbox_rows = gauge("Events in the outbox that have not been published.")
    outbox_oldest_seconds = gauge("The age of the oldest event that has not been published.")
    published_total = counter("Events handed to the stream and acknowledged by it.")
    publish_failures_total = counter("Events that the stream did not acknowledge in time; they are published again.")
    slot_lag_bytes = gauge("How much of the database's log waits for the relay (TALLY_RELAY=wal).")
    stream_connected = gauge("1 while the stream can be reached.")
    stream_pending = gauge("Messages of the stream that a consumer has not been given yet.", "consumer")
    consumed_total = counter(
        "Messages from the stream, by what became of them: applied, duplicate, parked or failed.",
        "consumer",
        "outcome",
    )
    redelivered_total = counter("Messages that the stream delivered more than once.", "consumer")
    projection_lag_seconds = gauge(
        "How long the newest event that was applied had been waiting; 0 when nothing is left to apply.", "projection"
    )
    parked_messages = gauge("Messages set aside because they could not be applied.", "consumer")
    rebuild_progress_ratio = gauge("How far the rebuild of the read view is; 1 when none is under way.")
    mails_total = counter("Mails, by kind and by what became of them: sent, failed or suppressed.", "kind", "outcome")
    mails_waiting = gauge("Mails that have not been accepted by the mail server.")
    mail_oldest_seconds = gauge("The age of the oldest mail that has not been accepted.")
    deferred_attempts_total = counter("Tries at deferred operations, by how they ended.", "outcome")
    operation_reports_total = counter(
        "What the gateway reports of operations to the operation log: sent, or dropped while the stream was away.",
        "outcome",
    )
    restoring = gauge("1 while the database catches up after it was restored from a backup.")
    operations = gauge("Operations by state.", "state")
    operation_oldest_seconds = gauge("The age of the oldest operation in a state.", "state")
    invariant_violations_total = counter("Broken promises. 0, always.", "invariant")
    tokens_refused_total = counter("Calls refused for their service token, by what was wrong with it.", "reason")
    token_expires_seconds = gauge("How long the token that is shown to a peer is still valid; 0 without one.", "peer")
    certificate_expires_seconds = gauge("How long the certificate of the own TLS ports is still valid.")
    fault_active = gauge("1 while a fault for an experiment is switched on.", "fault")
    database_connections = gauge("Connections to the own database: in use, idle, or being replaced.", "state")
    database_waiting = gauge("Calls that wait for a database connection now.")
    database_refused_total = counter("Calls refused because no connection became free in time.")

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
        wanted = span_exporter is not None or tracing.is_wanted(environ)
        self._tracing = tracing.Tracing(service, environ, span_exporter) if wanted else None
        self.span: OpenSpan = no_span if self._tracing is None else self._tracing.span
        self.event: TellEvent = no_event if self._tracing is None else tracing.event

    @property
    def traced(self) -> bool:
        """Spans are recorded by somebody."""
        return self._tracing is not None

    def server_span(self, context: Context, **attributes: Any) -> SpanBlock:
        """The span of a request: the one that `context` was drawn for, below the caller's. For the stack only."""
        return NO_SPAN if self._tracing is None else self._tracing.server_span(context, attributes)

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
