"""What dashboards are made of, and how they become Grafana's JSON (classic model, schema 41; newer ones migrate it).

A query names a declaration, not a string, so that a metric or label that does not exist fails when it is built:

    rate(Signals.settled_total, outcome="voided")
    →  rate(tally_settled_total{namespace=~"$namespace", job=~"$job", instance=~"$instance", outcome="voided"}[…])

The names that are OpenTelemetry's (`http_…`) others have, too: of those, our own processes' are taken (`ours`).

A label's value may begin with `=~`, `!~` or `!=`. Nothing else is checked here: that queries parse, follow Grafana's
dashboard-linter and find data in a running deployment is tested (tests/observability).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tally.chassis.metrics import Metric
from tally.chassis.signals import Signals

AnyMetric = Metric[Any]
Kind = Literal["timeseries", "stat", "state-timeline", "table"]

INTERVAL = "$__rate_interval"
_ALL = 'namespace=~"$namespace", job=~"$job", instance=~"$instance"'
_OF_SERVICES = 'namespace=~"$namespace", job=~"$job"'
_COLUMNS = 24
_SCHEMA = 41
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}

#: Public routes: what a client of the deployment asks for, not what services and probes do.
PUBLIC = "!~/internal/.*|/admin/.*|/livez|/readyz|/startupz|/metrics"


@dataclass(frozen=True, slots=True)
class Query:
    """One line, or one family of lines, of a panel."""

    expr: str
    legend: str
    exemplars: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """A picture. `runbooks` are the alerts that it helps with."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    runbooks: tuple[str, ...] = ()
    red_from: float | None = None
    red_below: float | None = None
    states: tuple[tuple[int, str, str], ...] = ()
    """Number, name and colour."""
    stacked: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    name: str
    """Of the file, and in its address."""
    title: str
    description: str
    rows: tuple[Row, ...]

    def queries(self) -> Iterable[tuple[Panel, Query]]:
        for row in self.rows:
            for panel in row.panels:
                for query in panel.queries:
                    yield panel, query


# --- queries -------------------------------------------------------------------------------------------------------


def of(metric: AnyMetric, *, suffix: str = "", **labels: str) -> str:
    """The series of a metric that the variables and `labels` choose."""
    if unknown := labels.keys() - {*metric.labels, "le"}:
        raise ValueError(f"{metric.name} has no label {', '.join(sorted(unknown))}")
    chosen = "".join(f", {name}{_matcher(value)}" for name, value in labels.items())
    return f"{metric.name}{suffix}{{{_ALL}{chosen}}}"


def ours(expr: str) -> str:
    """Those of the series that our own processes have: for names that others in the same Prometheus have, too."""
    return f"{expr} and on (namespace, job, instance) {of(Signals.build_info)}"


def rate(metric: AnyMetric, *, suffix: str = "", **labels: str) -> str:
    per_second = f"rate({of(metric, suffix=suffix, **labels)}[{INTERVAL}])"
    return per_second if metric.name.startswith("tally_") else ours(per_second)


def increase(metric: AnyMetric, *, suffix: str = "", **labels: str) -> str:
    return f"increase({of(metric, suffix=suffix, **labels)}[{INTERVAL}])"


def share(part: str, whole: str) -> str:
    """A ratio that is 0, and not "No data", while no series of the part exists or the whole rests."""
    return f"(({part}) or 0 * ({whole})) / (({whole}) > 0) or 0 * ({whole})"


def quantile(q: float, metric: AnyMetric, by: str, **labels: str) -> str:
    return f"histogram_quantile({q}, sum by ({by}, le) ({rate(metric, suffix='_bucket', **labels)}))"


def quantiles(metric: AnyMetric, by: str, *qs: float, **labels: str) -> tuple[Query, ...]:
    """With exemplars, which lead to traces."""
    return tuple(
        Query(quantile(q, metric, by, **labels), f"{{{{{by.split(', ')[-1]}}}}} p{round(q * 100)}", exemplars=True)
        for q in qs
    )


def recorded(rule: str) -> str:
    """What a rule of `observability/alerts` has recorded; such series have no instance."""
    return f"{rule}{{{_OF_SERVICES}}}"


def _matcher(value: str) -> str:
    for operator in ("=~", "!~", "!="):
        if value.startswith(operator):
            return f"{operator}{json.dumps(value.removeprefix(operator))}"
    return f"={json.dumps(value)}"


# --- Grafana's JSON ------------------------------------------------------------------------------------------------


def render(dashboard: Dashboard) -> str:
    return json.dumps(_model(dashboard), indent=1, ensure_ascii=False) + "\n"


def _model(dashboard: Dashboard) -> dict[str, Any]:
    return {
        "uid": f"tally-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.description,
        "tags": ["tally"],
        "schemaVersion": _SCHEMA,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "links": [_to_the_others()],
        "templating": {"list": _variables()},
        "annotations": {"list": list(_annotations())},
        "panels": list(_panels(dashboard.rows)),
    }


def _variables() -> list[dict[str, Any]]:
    build_info = Signals.build_info.name
    return [
        {
            "name": "datasource",
            "label": "Data source",
            "type": "datasource",
            "query": "prometheus",
            "refresh": 1,
            "hide": 0,
        },
        _variable("namespace", "Namespace", f"label_values({build_info}, namespace)"),
        _variable("job", "Service", f'label_values({build_info}{{namespace=~"$namespace"}}, job)'),
        _variable("instance", "Instance", f"label_values({build_info}{{{_OF_SERVICES}}}, instance)"),
        # Where the documents are read: the address of the repository's `docs`, to be set where the dashboards are.
        {"name": "docs", "label": "Documents", "type": "constant", "query": "docs", "hide": 2},
    ]


def _variable(name: str, label: str, query: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": _DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": name},
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"text": "All", "value": "$__all"},
    }


#: Title, colour, query and text of what is drawn across every panel.
ANNOTATIONS = (
    (
        "Deployments",
        "blue",
        f"count by (job, version) ({of(Signals.build_info)}) unless count by (job, version) "
        f"({of(Signals.build_info)} offset 2m)",
        "{{job}} {{version}} began to run",
    ),
    ("Faults", "purple", f"max by (job, fault) ({of(Signals.fault_active)}) > 0", "fault {{fault}} on in {{job}}"),
    (
        "Breakers opened",
        "red",
        f"sum by (job, peer, kind) ({increase(Signals.breaker_transitions_total, to_state='open')}) > 0",
        "{{job}}: {{peer}}/{{kind}} opened",
    ),
)


def _annotations() -> Iterable[dict[str, Any]]:
    for name, colour, expr, text in ANNOTATIONS:
        yield {
            "name": name,
            "enable": True,
            "datasource": _DATASOURCE,
            "expr": expr,
            "iconColor": colour,
            "titleFormat": name,
            "textFormat": text,
            "step": "30s",
        }


def _to_the_others() -> dict[str, Any]:
    return {
        "title": "Tally",
        "type": "dashboards",
        "tags": ["tally"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
    }


def _panels(rows: Sequence[Row]) -> Iterable[dict[str, Any]]:
    number, top = 1, 0
    for row in rows:
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "panels": [],
            "gridPos": _line(top),
        }
        number, top, left, tallest = number + 1, top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                top, left, tallest = top + tallest, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": number, **_panel(panel), "gridPos": place}
            number, left, tallest = number + 1, left + panel.width, max(tallest, panel.height)
        top += tallest


def _line(top: int) -> dict[str, int]:
    return {"x": 0, "y": top, "w": _COLUMNS, "h": 1}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "links": [
            {"title": f"Runbook: {name}", "url": f"${{docs}}/runbooks/{name}.md", "targetBlank": True}
            for name in panel.runbooks
        ],
        "targets": [_target(query, chr(ord("A") + n), panel.kind) for n, query in enumerate(panel.queries)],
    }


def _target(query: Query, letter: str, kind: Kind) -> dict[str, Any]:
    once = kind in ("stat", "table")
    return {
        "refId": letter,
        "datasource": _DATASOURCE,
        "expr": query.expr,
        "legendFormat": query.legend,
        "exemplar": query.exemplars,
        "instant": once,
        "range": not once,
        "format": "table" if kind == "table" else "time_series",
    }


def _field(panel: Panel) -> dict[str, Any]:
    field: dict[str, Any] = {"unit": panel.unit, "thresholds": _thresholds(panel), "mappings": _mappings(panel)}
    if panel.kind == "timeseries":
        field["min"] = 0
        field["custom"] = {
            "fillOpacity": 20 if panel.stacked else 5,
            "stacking": {"mode": "normal" if panel.stacked else "none"},
            "thresholdsStyle": {"mode": "off" if panel.red_from is None and panel.red_below is None else "line"},
        }
    return field


def _thresholds(panel: Panel) -> dict[str, Any]:
    first: dict[str, Any] = {"color": "green", "value": None}
    steps = [first]
    if panel.red_from is not None:
        steps = [first, {"color": "red", "value": panel.red_from}]
    elif panel.red_below is not None:
        steps = [{"color": "red", "value": None}, {"color": "green", "value": panel.red_below}]
    return {"mode": "absolute", "steps": steps}


def _mappings(panel: Panel) -> list[dict[str, Any]]:
    if not panel.states:
        return []
    named = {str(number): {"text": name, "color": colour} for number, name, colour in panel.states}
    return [{"type": "value", "options": named}]


def _options(panel: Panel) -> dict[str, Any]:
    match panel.kind:
        case "stat":
            return {"colorMode": "value", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
        case "state-timeline":
            return {"mergeValues": True, "showValue": "auto", "rowHeight": 0.8}
        case "table":
            return {"showHeader": True}
        case "timeseries":
            return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
