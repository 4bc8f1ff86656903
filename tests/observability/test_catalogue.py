"""The catalogue of signals and what is made of it: nothing is declared that nobody could see."""

from __future__ import annotations

import re

from observability.dashboards import DASHBOARDS
from tally.chassis.signals import Signals
from tally.chassis.spans import EVENTS, SPANS
from tests.observability.conftest import Series
from tests.observability.promql import selectors
from tests.observability.rules import ROOT
from tests.observability.test_live import missing

_SUFFIXES = re.compile(r"_(bucket|count|sum)$")


def test_every_declared_signal_is_on_a_dashboard() -> None:
    shown = {one.name for board in DASHBOARDS for _, query in board.queries() for one in selectors(query.expr)}
    shown |= {_SUFFIXES.sub("", name) for name in shown}
    assert {metric.name for metric in Signals.catalogue()} - shown == set()


def test_every_declared_signal_and_span_is_documented() -> None:
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert all(f"`{name}`" in text for name in (*(metric.name for metric in Signals.catalogue()), *SPANS, *EVENTS))


def test_every_declared_span_is_opened_and_every_event_told_somewhere() -> None:
    source = "".join(file.read_text() for room in ("tally", "services") for file in (ROOT / room).rglob("*.py"))
    opened = set(re.findall(r"\bspan\(\s*\"(\w+)\"", source)) | {"request"}  # the stack's own: `server_span`
    assert set(SPANS) - opened == set()
    told = set(re.findall(r"\bevent\(\s*\"([a-z-]+)\"", source))
    assert told == set(EVENTS)


# --- the check of the live check -----------------------------------------------------------------------------------

EXPOSED = [
    Series("tally_settled_total", {"job": "conference", "namespace": "local", "outcome": "voided"}, "counter"),
    Series("up", {"job": "conference", "namespace": "local"}, "gauge"),
]


def lacks(expr: str) -> str | None:
    [selector] = selectors(expr)
    return missing(selector, EXPOSED)


def test_what_is_there_is_not_missed() -> None:
    assert lacks('sum by (namespace, outcome) (rate(tally_settled_total{outcome=~"void.*", job!="other"}[5m]))') is None
    assert lacks('up{nowhere=~".*"}') is None


def test_a_metric_that_is_not_there_is_missed() -> None:
    assert lacks("tally_setled_total") == "there is no metric tally_setled_total"


def test_a_label_value_that_is_not_there_is_missed() -> None:
    assert "no series" in str(lacks('tally_settled_total{outcome="void"}'))
    assert "no series" in str(lacks('tally_settled_total{nowhere=~".+"}'))


def test_a_label_that_is_grouped_by_and_not_there_is_missed() -> None:
    assert "relationship" in str(lacks("sum by (relationship) (tally_settled_total)"))
    assert "relationship" in str(lacks("max by (job, relationship) (deriv(tally_settled_total[5m]))"))
