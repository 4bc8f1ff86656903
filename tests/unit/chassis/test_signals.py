"""Metrics and spans: declared once, cheap when nobody looks, joined to the request's trace when somebody does."""

import asyncio
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from tally.chassis import context
from tally.chassis.metrics import Metric, exemplar
from tally.chassis.signals import Signals
from tally.chassis.spans import SPANS

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traced(exporter: InMemorySpanExporter) -> Signals:
    return Signals("gateway", span_exporter=exporter)


def arrived(sampled: str) -> context.Context:
    return context.arrived([(b"traceparent", f"00-{TRACE}-{PARENT}-{sampled}".encode())], 0.0, 2.0)


def text(signals: Signals, accept: str = "") -> str:
    return signals.exposition(accept)[0].decode()


def hexadecimal(span: ReadableSpan) -> tuple[str, str, str | None]:
    """Trace id, span id and parent's span id, as they are in a header."""
    assert span.context is not None
    parent = None if span.parent is None else f"{span.parent.span_id:016x}"
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}", parent


# --- metrics


@pytest.mark.parametrize("metric", Signals.catalogue(), ids=lambda metric: metric.name)
def test_every_metric_has_a_name_of_ours_and_a_sentence(metric: Metric) -> None:  # type: ignore[type-arg]
    assert re.fullmatch(r"(tally_|http_(server|client)_)[a-z_]+", metric.name)
    assert metric.sentence[0].isupper() or metric.sentence[0].isdigit()
    assert metric.sentence.endswith(".")


def test_the_signals_of_the_design_are_declared() -> None:
    declared = {metric.name: metric.labels for metric in Signals.catalogue()}
    wanted: dict[str, tuple[str, ...]] = {
        "tally_fanout_duration_seconds": ("operation", "outcome"),
        "tally_fanout_calls_total": ("operation", "peer", "outcome"),
        "tally_compensations_total": ("operation", "reason", "outcome"),
        "tally_breaker_state": ("peer", "kind"),
        "tally_retries_total": ("peer", "reason"),
        "tally_retry_budget_ratio": ("peer",),
        "tally_projection_lag_seconds": ("projection",),
        "tally_operations": ("state",),
        "tally_operation_oldest_seconds": ("state",),
        "tally_invariant_violations_total": ("invariant",),
    }
    assert {name: declared[name] for name in wanted} == wanted
    assert {
        "tally_breaker_transitions_total",
        "tally_breaker_rejections_total",
        "tally_bulkhead_in_use",
        "tally_shed_total",
        "tally_settlement_lag_seconds",
        "tally_settled_total",
        "tally_lone_halves",
        "tally_outbox_rows",
        "tally_outbox_oldest_seconds",
        "tally_published_total",
        "tally_parked_messages",
    } <= set(declared)


def test_a_metric_appears_when_it_is_first_used() -> None:
    signals = Signals("author")
    assert "tally_" not in text(signals)
    signals.lone_halves("attendance").set(2)
    assert 'tally_lone_halves{relationship="attendance"} 2.0' in text(signals)
    assert "tally_outbox_rows" not in text(signals)


def test_a_counter_can_exist_at_zero_before_its_first_event() -> None:
    signals = Signals("conference")
    signals.settled_total.initialise(relationship=["attendance"], outcome=["confirmed", "voided"])
    assert 'tally_settled_total{outcome="voided",relationship="attendance"} 0.0' in text(signals)


def test_initialising_names_the_labels_that_there_are() -> None:
    with pytest.raises(ValueError, match="the labels are relationship, outcome, not outcome"):
        Signals("x").settled_total.initialise(outcome=["confirmed"])


def test_a_child_is_made_once() -> None:
    signals = Signals("x")
    assert signals.retries_total("author", "refused") is signals.retries_total("author", "refused")


def test_two_services_in_one_process_count_apart() -> None:
    one, other = Signals("author"), Signals("conference")
    one.published_total().inc()
    assert "tally_published_total 1.0" in text(one)
    assert "tally_published_total" not in text(other)


def test_the_exposition_has_no_series_that_nobody_reads() -> None:
    signals = Signals("x")
    signals.published_total().inc()
    assert "_created" not in text(signals)


def test_exemplars_are_shown_to_scrapers_that_accept_openmetrics() -> None:
    signals = Signals("x")
    duration = signals.http_server_request_duration_seconds("GET", "/author/{id}", "200")
    duration.observe(0.004, exemplar(arrived("01")))
    body, content_type = signals.exposition(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert f'# {{trace_id="{TRACE}"}} 0.004' in body.decode()
    assert body.decode().endswith("# EOF\n")
    plain, content_type = signals.exposition("text/plain")
    assert content_type.startswith("text/plain")
    assert TRACE.encode() not in plain


def test_a_trace_that_nobody_records_is_no_exemplar() -> None:
    assert exemplar(None) is exemplar(arrived("00")) is exemplar(context.fresh()) is None
    assert exemplar(arrived("01")) == {"trace_id": TRACE}


def test_the_process_itself_is_measured_where_asked_for() -> None:
    assert "process_resident_memory_bytes" in text(Signals("x", process=True))


# --- spans


def test_without_an_exporter_a_span_is_nothing() -> None:
    signals = Signals("x", environ={})
    assert not signals.traced
    here = context.fresh()
    with context.use(here), signals.span("call", peer="author") as span:
        span.set(outcome="reply")
        span.rename("other")
        span.failed("for no reason")
        assert context.current() is here


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
    ],
)
def test_opentelemetrys_own_variables_decide_whether_there_is_an_exporter(
    environ: dict[str, str], wanted: bool
) -> None:
    signals = Signals("x", environ=environ)
    assert signals.traced is wanted
    signals.close()


def test_a_span_that_is_not_declared_is_a_mistake(traced: Signals) -> None:
    with pytest.raises(KeyError):
        traced.span("undeclared")


def test_every_span_has_a_sentence() -> None:
    assert all(kind.sentence.endswith(".") for kind in SPANS.values())


def test_the_span_of_a_request_continues_the_callers_trace(traced: Signals, exporter: InMemorySpanExporter) -> None:
    here = arrived("01")
    with traced.server_span(here, method="GET") as span:
        span.rename("GET /author/{id}")
    (done,) = exporter.get_finished_spans()
    assert hexadecimal(done) == (TRACE, here.span_id, PARENT)
    assert (done.name, done.kind) == ("GET /author/{id}", SpanKind.SERVER)
    assert done.attributes == {"tally.method": "GET"}
    assert done.resource.attributes["service.name"] == "gateway"


def test_an_unsampled_request_records_nothing_below_it(traced: Signals, exporter: InMemorySpanExporter) -> None:
    here = arrived("00")
    with context.use(here), traced.server_span(here), traced.span("call"):
        assert context.current() is here
    assert not exporter.get_finished_spans()


def test_a_request_without_a_trace_begins_one_by_our_sampler(exporter: InMemorySpanExporter) -> None:
    for sampler, sampled in [("always_on", True), ("always_off", False)]:
        signals = Signals("x", environ={"OTEL_TRACES_SAMPLER": sampler}, span_exporter=exporter)
        here = context.arrived([], 0.0, 2.0)
        with signals.server_span(here):
            current = context.current()
            assert current is not None
            assert (current.trace_id, current.span_id, current.sampled) == (here.trace_id, here.span_id, sampled)
    (done,) = exporter.get_finished_spans()
    assert done.parent is None


def test_the_ratio_sampler_decides_by_the_trace(exporter: InMemorySpanExporter) -> None:
    environ = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}
    signals = Signals("x", environ=environ, span_exporter=exporter)
    for trace_id, sampled in [("0" * 31 + "1", True), ("f" * 32, False)]:
        with signals.server_span(context.Context("r", trace_id, PARENT)):
            current = context.current()
            assert current is not None
            assert current.sampled is sampled


def test_spans_nest_and_the_log_and_peers_see_the_innermost(traced: Signals, exporter: InMemorySpanExporter) -> None:
    here = arrived("01")
    with traced.server_span(here), traced.span("fan_out", operation="create"):
        outer = context.current()
        with traced.span("call", peer="author"):
            inner = context.current()
    assert outer is not None
    assert inner is not None
    assert inner.outgoing()["traceparent"] == f"00-{TRACE}-{inner.span_id}-01"
    call, fan_out, request = exporter.get_finished_spans()
    assert hexadecimal(request) == (TRACE, here.span_id, PARENT)
    assert hexadecimal(fan_out) == (TRACE, outer.span_id, here.span_id)
    assert hexadecimal(call) == (TRACE, inner.span_id, outer.span_id)
    assert call.kind is SpanKind.CLIENT
    assert context.current() is None


async def test_concurrent_spans_do_not_mix(traced: Signals, exporter: InMemorySpanExporter) -> None:
    async def call(peer: str) -> None:
        with traced.span("call", peer=peer):
            await asyncio.sleep(0)

    here = arrived("01")
    with traced.server_span(here):
        await asyncio.gather(call("author"), call("conference"))
    *calls, request = exporter.get_finished_spans()
    assert {hexadecimal(span)[2] for span in calls} == {hexadecimal(request)[1]}


def test_a_batch_begins_a_trace_of_its_own_linked_to_its_requests(
    traced: Signals, exporter: InMemorySpanExporter
) -> None:
    one, other = arrived("01"), arrived("00")
    with context.use(one), traced.span("consume", links=[one, other], items=2):
        batch = context.current()
    assert batch is not None
    assert batch.trace_id != TRACE
    assert batch.request_id == one.request_id
    (done,) = exporter.get_finished_spans()
    assert done.parent is None
    assert hexadecimal(done)[:2] == (batch.trace_id, batch.span_id)
    assert [f"{link.context.span_id:016x}" for link in done.links] == [one.span_id, other.span_id]


def test_a_batch_is_recorded_iff_one_of_its_requests_is(exporter: InMemorySpanExporter) -> None:
    def recorded(sampler: str, *links: context.Context) -> int:
        exporter.clear()
        signals = Signals("x", environ={"OTEL_TRACES_SAMPLER": sampler}, span_exporter=exporter)
        with signals.span("consume", links=links):
            pass
        return len(exporter.get_finished_spans())

    assert recorded("always_off", arrived("00"), arrived("01")) == 1
    assert recorded("always_on", arrived("00"), arrived("00")) == 0


def test_an_agents_round_is_a_trace_of_its_own(traced: Signals, exporter: InMemorySpanExporter) -> None:
    with context.use(context.fresh()) as here, traced.span("settle", relationship="attendance"), traced.span("call"):
        pass
    call, settle = exporter.get_finished_spans()
    assert hexadecimal(settle) == (here.trace_id, here.span_id, None)
    assert hexadecimal(call)[2] == here.span_id
    with traced.span("settle"):
        current = context.current()
    assert current is not None
    assert current.sampled


def test_an_exception_that_leaves_the_block_marks_the_span(traced: Signals, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(RuntimeError), traced.span("relay"):
        raise RuntimeError("the stream is away")
    (done,) = exporter.get_finished_spans()
    assert (done.status.status_code, done.status.description) == (StatusCode.ERROR, "RuntimeError")
    assert done.events[0].name == "exception"
    assert context.current() is None


def test_an_exceptions_message_is_not_exported(traced: Signals, exporter: InMemorySpanExporter) -> None:
    """It may quote a row, an address with its password, or a token; where it was raised is told all the same."""
    with pytest.raises(OSError), traced.span("consume"):
        raise OSError("cannot reach postgresql://author:hunter2-canary@db/author")
    (done,) = exporter.get_finished_spans()
    (told,) = done.events
    assert told.attributes is not None
    assert told.attributes["exception.type"] == "OSError"
    assert "in test_an_exceptions_message_is_not_exported" in str(told.attributes["exception.stacktrace"])
    assert set(told.attributes) == {"exception.type", "exception.stacktrace"}


def test_an_exception_of_a_span_that_nobody_records_costs_nothing(exporter: InMemorySpanExporter) -> None:
    signals = Signals("gateway", environ={"OTEL_TRACES_SAMPLER": "always_off"}, span_exporter=exporter)
    with pytest.raises(RuntimeError), signals.span("relay"):
        raise RuntimeError
    assert exporter.get_finished_spans() == ()


def test_what_happens_on_the_way_is_an_event_of_the_innermost_open_span(
    traced: Signals, exporter: InMemorySpanExporter
) -> None:
    traced.event("shed", reason="full")  # no span is open: nobody is told
    with traced.span("fan_out"):
        with traced.span("call"):
            traced.event("retry", peer="author", reason="silent")
        traced.event("withheld", peer="author", reason="breaker_open")
    call, fan_out = exporter.get_finished_spans()
    assert [(one.name, one.attributes) for one in call.events] == [
        ("retry", {"tally.peer": "author", "tally.reason": "silent"})
    ]
    assert [one.name for one in fan_out.events] == ["withheld"]


async def test_an_event_of_a_span_that_has_ended_is_dropped_silently(
    traced: Signals, exporter: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    async def later() -> None:
        await asyncio.sleep(0)
        traced.event("shed", reason="full")

    with traced.span("call"):
        outliving = asyncio.create_task(later())
    await outliving
    (done,) = exporter.get_finished_spans()
    assert done.events == ()
    assert caplog.records == []


def test_an_event_that_is_not_declared_is_refused(traced: Signals) -> None:
    with pytest.raises(ValueError, match="nonsense"), traced.span("call"):
        traced.event("nonsense")
    Signals("author").event("shed", reason="full")  # and without an exporter nothing is looked at


def test_attributes_with_a_dot_keep_their_name(traced: Signals, exporter: InMemorySpanExporter) -> None:
    with traced.span("call") as span:
        span.set(**{"http.response.status_code": 200, "outcome": "reply"})
    (done,) = exporter.get_finished_spans()
    assert done.attributes == {"http.response.status_code": 200, "tally.outcome": "reply"}


def test_spans_reach_a_collector_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    received: list[tuple[str, bytes]] = []

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return

    with HTTPServer(("127.0.0.1", 0), Collector) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        signals = Signals("conference", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        with signals.span("settle"):
            pass
        signals.close()
        server.shutdown()
    ((path, body),) = received
    assert path == "/v1/traces"
    assert b"settle" in body
    assert b"conference" in body


def test_a_collector_that_is_away_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    signals = Signals("x", environ={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"})
    with signals.span("settle"):
        pass
    begun_s = time.monotonic()
    signals.close(wait_s=0.1)
    assert time.monotonic() - begun_s < 0.9
    # What it logs when it gives up belongs to this test, not to the next.
    for thread in threading.enumerate():
        if thread.name == "last spans":
            thread.join(10)
            assert not thread.is_alive()


def test_the_repr_says_whether_it_traces(traced: Signals) -> None:
    assert repr(traced) == "<Signals gateway traced>"
