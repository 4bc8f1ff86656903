"""One trace, from a client's request to the mail: followed by links through what real processes export."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from observability.waterfall import Span
from tally.local.ask import ask
from tally.local.stack import LocalStack, free_ports
from tests.observability.receiver import Receiver, receiving
from tests.support.folders import scratch_folder

TRACE = "5cf92f3577b34da6a3ce929d0e0e4737"
_CALLER = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
_UNTRACED = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}


@pytest.fixture(scope="module")
def told() -> Iterator[tuple[str, list[Span]]]:
    """The operation of a create, and the spans when its mail has been sent."""
    with receiving() as receiver, scratch_folder() as folder:
        env = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"}
        with LocalStack(folder / ".tally", ports=free_ports(), env=env, supervise=False, durable=False) as stack:
            yield _created(stack), _until_mailed(receiver)


def _created(stack: LocalStack) -> str:
    def made(service: str, path: str, body: dict[str, object]) -> str:
        answer = ask("POST", stack.urls[service] + path, body, headers=_UNTRACED)
        assert answer.status == 201, answer.says()
        return str(answer.body["id"])

    author = made("author", "/author", {"full_name": "Ada Lovelace", "email": "ada@example.org"})
    conference = made("conference", "/conference", {"acronym": "SWAT"})
    event = made("conference", "/event", {"conference_id": conference, "seq": 1, "title": "Engines"})
    answer = ask("PUT", f"{stack.urls['gateway']}/event/{event}/attendance/{author}", headers=_CALLER)
    assert answer.status == 201, answer.says()
    return str(answer.body["operation"])


def _until_mailed(receiver: Receiver) -> list[Span]:
    wanted = {("notifier", "mail"), ("directory", "consume"), ("notifier", "consume"), ("conference", "confirm")}

    def whole(spans: list[Span]) -> bool:
        return wanted <= {(span.service, span.name) for span in spans if TRACE in span.links}

    return receiver.until(whole, "the mail's span, and those between the request and it")


def test_the_request_and_both_halves_are_one_trace(told: tuple[str, list[Span]]) -> None:
    operation, spans = told
    of_request = [span for span in spans if span.trace_id == TRACE]
    served = {(span.service, span.name) for span in of_request}
    assert served >= {
        ("gateway", "PUT /event/{event}/attendance/{author}"),
        ("gateway", "fan_out"),
        ("author", "POST /internal/attendance/record"),
        ("conference", "POST /internal/attendance/record"),
    }
    [fan_out] = [span for span in of_request if span.name == "fan_out"]
    assert fan_out.attributes["tally.operation_id"] == operation


def test_all_that_follows_points_back_at_it_in_the_order_in_which_it_happened(told: tuple[str, list[Span]]) -> None:
    operation, spans = told
    linked = sorted((span for span in spans if TRACE in span.links), key=lambda span: span.begun_us)
    [confirm] = [span for span in linked if span.name == "confirm"]
    [relay] = [span for span in linked if span.name == "relay"]
    [mail] = [span for span in linked if span.name == "mail"]
    assert (relay.service, relay.attributes["tally.type"]) == ("conference", "attendance.confirmed")
    assert relay.attributes["tally.subject"] == mail.attributes["tally.operation_id"] == operation
    heard = {span.service: span for span in linked if span.name == "consume"}
    assert heard.keys() == {"directory", "notifier"}
    [request] = [span for span in spans if span.trace_id == TRACE and span.name.startswith("PUT ")]
    steps = [request, confirm, relay, heard["notifier"], mail]
    assert [step.begun_us for step in steps] == sorted(step.begun_us for step in steps)


def test_each_of_these_is_a_trace_of_its_own(told: tuple[str, list[Span]]) -> None:
    """They happen later, and may serve several requests: the caller's trace ends with its answer."""
    _, spans = told
    assert all(span.trace_id != TRACE for span in spans if TRACE in span.links)
