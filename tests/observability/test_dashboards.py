"""Grafana's dashboard-linter, rule by rule, and what it can't know: that every query uses what is declared.

The rules are those of github.com/grafana/dashboard-linter, docs/rules (those about Loki have nothing to look at here).
What is excepted stands in `observability/dashboards/.lint`, the linter's own file for that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from tally.chassis.signals import Signals
from tests.observability.promql import filled, joined_with_ours, selectors
from tests.observability.rules import ALERTS, RECORDED, ROOT

Json = dict[str, Any]
FOLDER = ROOT / "observability" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))
LINT: Json = yaml.safe_load((FOLDER / ".lint").read_text())["exclusions"]

# What the exposition has beside our declarations: the process's own, and the scraper's.
OTHERS = {
    "process_cpu_seconds_total": frozenset[str](),
    "process_resident_memory_bytes": frozenset[str](),
}
TARGET = frozenset({"namespace", "job", "instance"})
_SUFFIXES = re.compile(r"_(bucket|count|sum)$")

pytestmark = pytest.mark.parametrize(
    "dashboard", [json.loads(f.read_text()) for f in FILES], ids=[f.stem for f in FILES]
)


def panels(dashboard: Json) -> Iterator[Json]:
    return (panel for panel in dashboard["panels"] if panel["type"] != "row")


def targets(dashboard: Json) -> Iterator[tuple[Json, str]]:
    return ((panel, target["expr"]) for panel in panels(dashboard) for target in panel["targets"])


def excluded(rule: str, dashboard: Json, panel: Json | None = None) -> bool:
    if rule not in LINT:
        return False
    entries = LINT[rule].get("entries")
    return entries is None or any(
        one["dashboard"] == dashboard["title"] and panel is not None and one.get("panel") == panel["title"]
        for one in entries
    )


def variables(dashboard: Json) -> dict[str, Json]:
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def test_template_datasource_rule(dashboard: Json) -> None:
    source = variables(dashboard)["datasource"]
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")


@pytest.mark.parametrize("name", ["job", "instance"])
def test_template_job_rule_and_template_instance_rule(dashboard: Json, name: str) -> None:
    variable = variables(dashboard)[name]
    assert variable["type"] == "query"
    assert variable["datasource"]["uid"] == "${datasource}"
    assert variable["multi"]
    assert variable["allValue"] == ".+"
    assert variable["label"] == name.capitalize() or excluded(f"template-{name}-rule", dashboard)


def test_template_label_promql_rule_and_template_on_time_change_reload_rule(dashboard: Json) -> None:
    for variable in variables(dashboard).values():
        if variable["type"] != "query":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        assert asked is not None, variable["definition"]
        [selector] = selectors(asked[1])
        assert asked[2] in TARGET and selector.name == Signals.build_info.name
        assert variable["refresh"] == 2


def test_uneditable_dashboard_rule(dashboard: Json) -> None:
    assert dashboard["editable"] is False


def test_panel_datasource_rule(dashboard: Json) -> None:
    for panel in panels(dashboard):
        sources = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {source["uid"] for source in sources} == {"${datasource}"}, panel["title"]


def test_panel_title_description_rule(dashboard: Json) -> None:
    for panel in panels(dashboard):
        assert panel["title"] and panel["description"].endswith((".", ".)")), panel["title"]
    titles = [panel["title"] for panel in panels(dashboard)]
    assert len(titles) == len(set(titles))


def test_panel_units_rule(dashboard: Json) -> None:
    known = {"reqps", "ops", "s", "percentunit", "short", "bytes", "none"}
    for panel in panels(dashboard):
        unit = panel["fieldConfig"]["defaults"]["unit"]
        # A number that stands for a word has no unit; every other one has.
        assert unit in known and (unit != "none" or panel["fieldConfig"]["defaults"]["mappings"]), panel["title"]


def test_panel_no_targets_rule(dashboard: Json) -> None:
    assert [panel["title"] for panel in panels(dashboard) if not panel["targets"]] == []


def test_target_promql_rule(dashboard: Json) -> None:
    for panel, expr in targets(dashboard):
        assert promql_parser.parse(filled(expr)) is not None, panel["title"]


def test_target_rate_interval_rule(dashboard: Json) -> None:
    for panel, expr in targets(dashboard):
        for window in re.findall(r"(?:i?rate|increase)\([^[]*\[([^]]*)\]", expr):
            assert window == "$__rate_interval", panel["title"]


def test_target_counter_agg_rule(dashboard: Json) -> None:
    for panel, expr in targets(dashboard):
        if excluded("target-counter-agg-rule", dashboard, panel):
            continue
        for name in re.findall(r"\w+_total\b", expr):
            # Each time that it is named it is within one of the functions, and over a time.
            within = re.findall(rf"\b(?:i?rate|increase)\({name}(?:\{{[^}}]*\}})?\[", expr)
            assert len(within) == len(re.findall(rf"\b{name}\b", expr)), (panel["title"], name)


def test_target_job_rule_and_target_instance_rule(dashboard: Json) -> None:
    for panel, expr in targets(dashboard):
        for selector in selectors(expr):
            chosen = {matcher.label for matcher in selector.matchers if matcher.op == "=~"}
            expected = TARGET - ({"instance"} if excluded("target-instance-rule", dashboard, panel) else set())
            assert expected <= chosen, (panel["title"], selector.name)
    for name in TARGET:
        assert f'{name}=~"${name}"' in "".join(expr for _, expr in targets(dashboard))


def test_what_is_excluded_is_there(dashboard: Json) -> None:
    titles = {panel["title"] for panel in panels(dashboard)}
    for rule in LINT.values():
        assert rule["reason"]
        for entry in rule.get("entries", []):
            assert entry["dashboard"] != dashboard["title"] or entry["panel"] in titles


def test_every_query_uses_what_is_declared(dashboard: Json) -> None:
    declared = {metric.name: frozenset(metric.labels) for metric in Signals.catalogue()} | OTHERS
    queries = [*targets(dashboard), *((one, one["expr"]) for one in dashboard["annotations"]["list"])]
    for panel, expr in queries:
        for selector in selectors(expr):
            if selector.name in RECORDED:
                continue
            bare = _SUFFIXES.sub("", selector.name)
            labels = declared[selector.name if selector.name in declared else bare]
            more = TARGET | ({"le"} if selector.name.endswith("_bucket") else set())
            assert selector.labels <= labels | more, (panel, selector)


def test_of_names_that_others_have_too_a_panel_takes_our_own_processes(dashboard: Json) -> None:
    for panel, expr in targets(dashboard):
        assert joined_with_ours(expr), panel["title"]


def test_every_runbook_that_is_linked_is_there(dashboard: Json) -> None:
    links = {link["url"] for panel in panels(dashboard) for link in panel["links"]}
    assert links <= {f"${{docs}}/runbooks/{name}.md" for name in ALERTS}


def test_panels_do_not_overlap(dashboard: Json) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert at["x"] + at["w"] <= 24 and not cells & taken, panel["title"]
        taken |= cells


def test_identities_are_unique(dashboard: Json) -> None:
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert dashboard["uid"] == f"tally-{Path(dashboard['uid'].removeprefix('tally-')).stem}"
