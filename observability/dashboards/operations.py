"""The operations that outlive their request: where they are, since when, and which need somebody."""

from __future__ import annotations

from observability.dashboards.panels import Dashboard, Panel, Query, Row, of, rate
from tally.chassis.signals import Signals

DASHBOARD = Dashboard(
    "operations",
    "Tally / Operations",
    "Requests that were accepted for later (202), how they end, and what is stuck.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Operations by state",
                    "How many are in each state that is not an end.",
                    "short",
                    (Query(f"max by (job, state) ({of(Signals.operations)})", "{{state}}"),),
                    width=12,
                    runbooks=("TallyOperationsStuck",),
                ),
                Panel(
                    "Oldest by state",
                    "The age of the oldest operation in each state.",
                    "s",
                    (Query(f"max by (job, state) ({of(Signals.operation_oldest_seconds)})", "{{state}}"),),
                    width=12,
                    runbooks=("TallyOperationsStuck",),
                    red_from=900,
                ),
            ),
        ),
        Row(
            "Deferred work",
            (
                Panel(
                    "Tries by outcome",
                    "Tries at deferred operations per second, by how they ended.",
                    "ops",
                    (Query(f"sum by (outcome) ({rate(Signals.deferred_attempts_total)})", "{{outcome}}"),),
                    runbooks=("TallyOperationsStuck",),
                    stacked=True,
                ),
                Panel(
                    "Reports to the operation log",
                    "What the gateway told of operations per second: sent, or dropped while the stream was away.",
                    "ops",
                    (Query(f"sum by (outcome) ({rate(Signals.operation_reports_total)})", "{{outcome}}"),),
                ),
                Panel(
                    "Outcomes unknown",
                    "Creates per second whose answer was 504 with the operation's address.",
                    "ops",
                    (
                        Query(
                            "sum by (job) "
                            f"({rate(Signals.fanout_duration_seconds, suffix='_count', outcome='unknown')})",
                            "{{job}}",
                        ),
                    ),
                    runbooks=("TallyOutcomesUnknown",),
                ),
                Panel(
                    "Restoring",
                    "1 while a database catches up after it was restored from a backup; it takes no writes then.",
                    "none",
                    (Query(f"max by (job) ({of(Signals.restoring)})", "{{job}}"),),
                    kind="state-timeline",
                    width=24,
                    height=5,
                    states=((0, "normal", "green"), (1, "restoring", "orange")),
                ),
            ),
        ),
    ),
)
