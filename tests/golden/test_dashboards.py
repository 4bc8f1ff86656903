"""Grafana's JSON follows from the dashboards' Python; the objectives' rules, from the objectives."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from observability.alerts import objectives
from observability.dashboards import DASHBOARDS
from observability.dashboards.panels import Dashboard, render
from observability.waterfall import Span, draw
from tests.golden.conftest import ROOT

Golden = Callable[[str, str], None]


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda dashboard: dashboard.name)
def test_a_dashboard_changes_only_on_purpose(dashboard: Dashboard, golden: Golden) -> None:
    golden(f"observability/dashboards/{dashboard.name}.json", render(dashboard))


def test_the_rules_of_the_objectives_change_only_on_purpose(golden: Golden) -> None:
    golden("observability/alerts/objectives.yaml", objectives.rules())


def test_the_picture_of_a_trace_follows_from_the_trace(golden: Golden) -> None:
    spans = msgspec.json.decode((ROOT / "docs/create-refused.json").read_bytes(), type=list[Span])
    golden("docs/create-refused.svg", draw(spans, "A create that one participant refuses"))
