"""The dashboards, as Python; the JSON beside them is what Grafana reads, and golden: `make golden` writes it anew."""

from observability.dashboards import events, operations, overview, relationship, resilience

DASHBOARDS = (
    overview.DASHBOARD,
    relationship.DASHBOARD,
    resilience.DASHBOARD,
    events.DASHBOARD,
    operations.DASHBOARD,
)
