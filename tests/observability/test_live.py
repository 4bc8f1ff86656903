"""Every panel and rule against a running deployment: nothing that it names may be missing, and no panel may be empty.

The names and labels are looked for in what the services expose, which needs no Prometheus. Where the machine has one,
it has scraped the whole workload with the rules loaded, and is asked every query as well.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence

import pytest

from observability.dashboards import DASHBOARDS
from observability.dashboards.panels import ANNOTATIONS
from observability.waterfall import Span
from tally.chassis.signals import Signals
from tally.chassis.spans import SPANS
from tests.observability.conftest import Observed, Series
from tests.observability.prometheus import asked
from tests.observability.promql import Selector, filled, selectors
from tests.observability.rules import RECORDED, RULES

PANELS = {f"{d.name}: {p.title}: {q.legend}": q.expr for d in DASHBOARDS for p, q in d.queries()}
DRAWN = {f"annotation: {name}": expr for name, _, expr, _ in ANNOTATIONS}
RULED = {f"rule: {rule.name} {number}": rule.expr for number, rule in enumerate(RULES)}

pytestmark = pytest.mark.timeout(240)


def missing(selector: Selector, series: Sequence[Series]) -> str | None:
    """What of a selector is not there; None if something matches it and has every label that is needed."""
    named = [one for one in series if one.name == selector.name]
    if not named:
        return f"there is no metric {selector.name}"
    chosen = [one for one in named if selector.chooses(one.name, one.labels)]
    if not chosen:
        return f"no series of {selector.name} matches {selector.matchers}"
    lacking = selector.within - set().union(*(one.labels.keys() for one in chosen))
    return f"{selector.name} has no {lacking}" if lacking else None


def test_every_declared_signal_was_emitted(observed: Observed) -> None:
    emitted = {re.sub(r"_(bucket|count|sum)$", "", one.name) for one in observed.after} | {
        one.name for one in observed.after
    }
    assert {metric.name for metric in Signals.catalogue()} - emitted == set()


#: OTLP's numbers of what a span is for its trace.
_KINDS = {1: "internal", 2: "server", 3: "client", 4: "producer", 5: "consumer"}


def test_every_declared_span_was_exported(observed: Observed) -> None:
    """(A request's span has the name of its route.)"""

    def exported(spans: Sequence[Span]) -> set[tuple[str, str]]:
        return {("request" if span.kind == 2 else span.name, _KINDS[span.kind]) for span in spans}

    declared = {(name, kind.side) for name, kind in SPANS.items()}
    seen = exported(observed.spans.until(lambda spans: declared <= exported(spans), f"spans of {declared}"))
    assert seen == declared


@pytest.mark.parametrize("what", [*PANELS, *DRAWN, *RULED])
def test_every_metric_and_label_of_a_query_is_there(what: str, observed: Observed) -> None:
    expr = (PANELS | DRAWN | RULED)[what]
    found = [missing(one, observed.after) for one in selectors(expr) if one.name not in RECORDED]
    assert [reason for reason in found if reason] == []


def test_counters_are_there_before_their_first_event(observed: Observed) -> None:
    """Otherwise the first event is not seen by `rate`, and a panel says "No data" until there is one."""

    def counters(series: Sequence[Series]) -> set[tuple[str, str]]:
        return {
            (one.name, json.dumps(dict(sorted(one.labels.items()))))
            for one in series
            if one.kind == "counter" and one.name.startswith("tally_")
        }

    assert counters(observed.after) - counters(observed.before) == set()


# --- where there is a Prometheus -----------------------------------------------------------------------------------


def _values(observed: Observed, expr: str) -> Iterator[float]:
    """What the expression gave at any time of the workload; rates are over all of it, and the scrape before it."""
    assert observed.prometheus is not None
    lasted_s = math.ceil(observed.ended_s - observed.began_s)
    query = filled(expr, __rate_interval=f"{lasted_s + 5}s")
    span = {"start": observed.ended_s - lasted_s, "end": observed.ended_s, "step": 1}  # the end is looked at, too
    for series in asked(observed.prometheus, "query_range", query=query, **span)["result"]:
        yield from (float(value) for _, value in series["values"])


@pytest.mark.parametrize("what", [*PANELS, *DRAWN])
def test_no_panel_is_empty(what: str, observed: Observed) -> None:
    if observed.prometheus is None:
        return  # the names were looked for above; that nothing was asked is said once, below
    values = list(_values(observed, (PANELS | DRAWN)[what]))
    assert any(math.isfinite(value) for value in values), "No data"


def test_prometheus_evaluates_every_rule(observed: Observed, capsys: pytest.CaptureFixture[str]) -> None:
    if observed.prometheus is None:
        with capsys.disabled():
            print("\nno Prometheus here: panels and rules were checked by name and label, but NOT evaluated")
        return
    groups = asked(observed.prometheus, "rules")["groups"]
    evaluated = [rule for group in groups for rule in group["rules"]]
    assert len(evaluated) == len(RULES)
    assert [(rule["name"], rule["lastError"]) for rule in evaluated if rule["health"] != "ok"] == []
    for name in RECORDED:
        assert any(True for _ in _values(observed, name)), f"{name} recorded nothing"


def test_what_must_have_happened_shows(observed: Observed) -> None:
    """The workload's own events, as the dashboards tell them."""
    if observed.prometheus is None:
        return
    for what in (
        "relationship: Compensations by reason: {{reason}}",
        "relationship: Reads without one side: {{peer}} missing",
        "resilience: Openings: {{peer}} {{kind}}",
        "resilience: Calls not made: open: {{peer}} {{kind}}",
        "resilience: Deadlines exceeded: {{job}}",
        "overview: Errors: {{job}}",
        "events: Published: {{job}}",
        "events: Consumed by outcome: {{consumer}} {{outcome}}",
        "events: Mails: {{kind}} {{outcome}}",
        "operations: Tries by outcome: {{outcome}}",
    ):
        assert any(value > 0 for value in _values(observed, PANELS[what])), what
