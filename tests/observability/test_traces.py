"""What real processes export over HTTP: a create that one participant refuses, as one trace, with no secret in it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import jwt
import pytest

from observability.waterfall import Span
from tally.chassis.clock import SystemClock
from tally.chassis.spans import SPANS
from tally.chassis.tokens import MintedTokens
from tally.local.ask import ask
from tests.observability.trace import TRACE, refused_create

CANARY = "canary-5a1b"
NOWHERE = "01a2055d-685b-7fcf-98e9-9180cb1c798e"


@dataclass(frozen=True, slots=True)
class Recorded:
    """The spans of the create's trace, everything that was exported, the gateway's log, and what nobody may read:
    passwords, and the signatures of tokens that were shown."""

    spans: list[Span]
    raw: bytes
    content_types: set[str]
    log: list[dict[str, object]]
    secrets: list[str]
    metrics: str
    """The gateway's, for a scraper that takes exemplars, right after the create."""


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    with refused_create() as (stack, receiver, spans):
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        metrics = ask("GET", f"{stack.admin_urls['gateway']}/metrics", headers=accept).body
        # Everything that must not be exported, where it usually gets in: header, query, body, path.
        traced = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01"}
        secret = {**traced, "Authorization": f"Bearer {CANARY}", "Cookie": f"session={CANARY}"}
        author, gateway = stack.urls["author"], stack.urls["gateway"]
        ask("POST", f"{author}/author?token={CANARY}", {"full_name": "A", "password": CANARY}, headers=secret)
        ask("GET", f"{author}/author/{CANARY}", headers=secret)
        ask("PUT", f"{gateway}/event/{NOWHERE}/attendance/{NOWHERE}?token={CANARY}", headers=secret)
        # Tokens that are refused, and one that is accepted: at the endpoints that ask for them.
        forged = jwt.encode({"sub": CANARY}, CANARY * 4, "HS256")
        minted = MintedTokens(stack.environment("author")["TALLY_TOKEN_KEY_FILE"], "gateway", "tally", SystemClock())
        accepted = minted("author")
        for token, status in ((CANARY, 401), (forged, 401), (accepted, 200)):
            bearer = {**traced, "Authorization": f"Bearer {token}"}
            answer = ask("POST", f"{author}/internal/attendance/status", {"items": []}, headers=bearer)
            assert answer.status == status, answer.says()
            ask("GET", f"{stack.admin_urls['author']}/admin/breakers?token={token}", headers=bearer)
        receiver.until(lambda all: sum(one.trace_id == "1" * 32 for one in all) >= 10, "the spans of the others")
        log = [json.loads(line) for line in stack.log("gateway").read_text().splitlines() if line.startswith("{")]
        passwords = [urlsplit(stack.dsn(name)).password or "" for name in ("author", "conference")]
        secrets = [*passwords, *(token.rpartition(".")[2] for token in (forged, accepted))]
        yield Recorded(spans, receiver.raw, receiver.content_types, log, secrets, metrics)


def _one(spans: list[Span], service: str, name: str) -> Span:
    [found] = [span for span in spans if span.service == service and span.name == name]
    return found


def test_the_trace_is_the_callers_and_hangs_together(recorded: Recorded) -> None:
    assert {span.trace_id for span in recorded.spans} == {TRACE}
    known = {span.span_id for span in recorded.spans}
    roots = [span for span in recorded.spans if span.parent_id not in known]
    assert [(root.service, root.name) for root in roots] == [("gateway", "PUT /event/{event}/attendance/{author}")]


def test_it_shows_both_participants_the_refusal_and_the_compensation(recorded: Recorded) -> None:
    fan_out = _one(recorded.spans, "gateway", "fan_out")
    compensation = _one(recorded.spans, "gateway", "compensation")
    assert fan_out.attributes["tally.outcome"] == "refused"
    assert compensation.attributes["tally.reason"] == "not-found"
    assert compensation.attributes["tally.outcome"] == "dead"
    assert compensation.parent_id == fan_out.span_id
    served = {(span.service, span.name) for span in recorded.spans if span.service != "gateway"}
    assert served >= {
        ("author", "POST /internal/attendance/record"),
        ("conference", "POST /internal/attendance/record"),
        ("author", "POST /internal/attendance/kill"),
    }


def test_a_call_is_the_clients_span_and_the_peers_request_is_below_it(recorded: Recorded) -> None:
    calls = {span.span_id: span for span in recorded.spans if span.name == "call"}
    for span in recorded.spans:
        if span.service != "gateway":
            assert calls[span.parent_id].attributes["tally.peer"] == span.service
            assert calls[span.parent_id].begun_us <= span.begun_us


def test_the_spans_of_an_operation_carry_its_id(recorded: Recorded) -> None:
    operations = {
        span.attributes.get("tally.operation_id") for span in recorded.spans if span.name in ("fan_out", "compensation")
    }
    [operation] = operations
    assert operation is not None


def test_the_log_carries_the_trace_and_the_operation(recorded: Recorded) -> None:
    compensation = _one(recorded.spans, "gateway", "compensation")
    lines = [line for line in recorded.log if line.get("trace_id") == TRACE]
    assert {"compensated", "request"} <= {line["event"] for line in lines}
    [told] = [line for line in lines if line["event"] == "compensated"]
    assert told["operation"] == compensation.attributes["tally.operation_id"]


def test_names_are_those_declared_and_few(recorded: Recorded) -> None:
    for span in recorded.spans:
        assert span.name in SPANS or span.attributes["http.route"] in span.name, span
        assert not any(character.isdigit() for character in span.name), "an id in a span's name"


@pytest.mark.parametrize(
    "histogram",
    [
        "http_server_request_duration_seconds",
        "http_client_request_duration_seconds",
        "tally_fanout_duration_seconds",
    ],
)
def test_a_duration_leads_to_the_trace_by_its_exemplar(recorded: Recorded, histogram: str) -> None:
    dots = [line for line in recorded.metrics.splitlines() if line.startswith(f"{histogram}_bucket") and "# {" in line]
    assert any(f'trace_id="{TRACE}"' in line for line in dots), dots


def test_no_secret_is_exported(recorded: Recorded) -> None:
    for secret in (CANARY, *recorded.secrets, "eyJ", "Bearer"):
        assert secret and secret.encode() not in recorded.raw


def test_it_is_protobuf(recorded: Recorded) -> None:
    assert recorded.content_types == {"application/x-protobuf"}
