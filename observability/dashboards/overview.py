"""How it is, for whoever looks first: rate, errors and duration by service and route, and the budgets."""

from __future__ import annotations

from observability.dashboards.panels import (
    INTERVAL,
    PUBLIC,
    Dashboard,
    Panel,
    Query,
    Row,
    of,
    ours,
    quantile,
    quantiles,
    rate,
    recorded,
    share,
)
from tally.chassis.signals import Signals

HTTP = Signals.http_server_request_duration_seconds
_ALL = rate(HTTP, suffix="_count", http_route=PUBLIC)
_FAILED = rate(HTTP, suffix="_count", http_route=PUBLIC, http_response_status_code="=~5..|none")
_SELECTED = '{namespace=~"$namespace", job=~"$job", instance=~"$instance"}'
_PROCESSOR = f"rate(process_cpu_seconds_total{_SELECTED}[{INTERVAL}])"
_MEMORY = f"process_resident_memory_bytes{_SELECTED}"
_BURNS = ("TallyAvailabilityBudgetBurn", "TallyLatencyBudgetBurn")

DASHBOARD = Dashboard(
    "overview",
    "Tally / Overview",
    "Requests, errors and durations of the public API by service and route, and the budgets of its two objectives: "
    "99.9 % of requests not answered with 5xx, 99 % answered within 250 ms, over 30 days.",
    (
        Row(
            "Now",
            (
                Panel(
                    "Requests per second",
                    "Public requests to all services.",
                    "reqps",
                    (Query(f"sum({_ALL})", "requests"),),
                    kind="stat",
                    width=4,
                    height=4,
                ),
                Panel(
                    "Availability",
                    "The share of public requests that were not answered with 5xx, in the last minutes.",
                    "percentunit",
                    (Query(f"1 - ({share(f'sum({_FAILED})', f'sum({_ALL})')})", "availability"),),
                    kind="stat",
                    width=4,
                    height=4,
                    runbooks=_BURNS[:1],
                    red_below=0.999,
                ),
                Panel(
                    "Error budget left",
                    "Of the 0.1 % of requests that may fail within 30 days (or as long as Prometheus keeps): 100 % is "
                    "untouched, below 0 is overdrawn.",
                    "percentunit",
                    (Query(f"min({recorded('tally:error_budget_left:ratio30d')})", "left"),),
                    kind="stat",
                    width=4,
                    height=4,
                    runbooks=_BURNS[:1],
                    red_below=0.0,
                ),
                Panel(
                    "Latency budget left",
                    "Of the 1 % of requests that may take longer than 250 ms within 30 days.",
                    "percentunit",
                    (Query(f"min({recorded('tally:latency_budget_left:ratio30d')})", "left"),),
                    kind="stat",
                    width=4,
                    height=4,
                    runbooks=_BURNS[1:],
                    red_below=0.0,
                ),
                Panel(
                    "Broken promises",
                    "Invariant violations since the processes started. 0, always.",
                    "short",
                    (Query(f"sum({of(Signals.invariant_violations_total)})", "violations"),),
                    kind="stat",
                    width=4,
                    height=4,
                    runbooks=("TallyInvariantViolated",),
                    red_from=1,
                ),
                Panel(
                    "Processes",
                    "Replicas that answer the scraper.",
                    "short",
                    (Query(f"count({of(Signals.build_info)})", "processes"),),
                    kind="stat",
                    width=4,
                    height=4,
                    runbooks=("TallyProcessDown", "TallyServiceGone"),
                ),
            ),
        ),
        Row(
            "By service",
            (
                Panel(
                    "Requests",
                    "Public requests per second.",
                    "reqps",
                    (Query(f"sum by (job) ({_ALL})", "{{job}}"),),
                    stacked=True,
                ),
                Panel(
                    "Errors",
                    "The share of public requests answered with 5xx (or cut off).",
                    "percentunit",
                    (Query(share(f"sum by (job) ({_FAILED})", f"sum by (job) ({_ALL})"), "{{job}}"),),
                    runbooks=_BURNS[:1],
                    red_from=0.001,
                ),
                Panel(
                    "Durations",
                    "Half, 95 % and 99 % of public requests were faster. The dots are traces.",
                    "s",
                    quantiles(HTTP, "job", 0.5, 0.95, 0.99, http_route=PUBLIC),
                    runbooks=_BURNS[1:],
                    red_from=0.25,
                ),
            ),
        ),
        Row(
            "By route",
            (
                Panel(
                    "Requests by route",
                    "Public requests per second.",
                    "reqps",
                    (
                        Query(
                            f"sum by (http_request_method, http_route) ({_ALL})",
                            "{{http_request_method}} {{http_route}}",
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Answers by status",
                    "Public requests per second by status. 4xx is the caller's doing, 5xx ours.",
                    "reqps",
                    (Query(f"sum by (http_response_status_code) ({_ALL})", "{{http_response_status_code}}"),),
                    stacked=True,
                ),
                Panel(
                    "99th percentile by route",
                    "Where the time goes. The dots are traces.",
                    "s",
                    (
                        Query(
                            quantile(0.99, HTTP, "http_request_method, http_route", http_route=PUBLIC),
                            "{{http_request_method}} {{http_route}}",
                            exemplars=True,
                        ),
                    ),
                    runbooks=_BURNS[1:],
                ),
            ),
        ),
        Row(
            "Budgets",
            (
                Panel(
                    "Error budget burn",
                    "How many times faster than allowed the budget of failed requests is spent: at 1 it lasts 30 days, "
                    "at 14.4 for two.",
                    "short",
                    tuple(
                        Query(f"max({recorded(f'tally:error_budget_burn:rate{window}')})", window)
                        for window in ("5m", "1h", "6h", "3d")
                    ),
                    width=12,
                    runbooks=_BURNS[:1],
                    red_from=14.4,
                ),
                Panel(
                    "Latency budget burn",
                    "The same for requests that took longer than 250 ms.",
                    "short",
                    tuple(
                        Query(f"max({recorded(f'tally:latency_budget_burn:rate{window}')})", window)
                        for window in ("5m", "1h", "6h", "3d")
                    ),
                    width=12,
                    runbooks=_BURNS[1:],
                    red_from=14.4,
                ),
            ),
        ),
        Row(
            "Processes",
            (
                Panel(
                    "Versions",
                    "Which version runs how often.",
                    "short",
                    (Query(f"count by (job, version) ({of(Signals.build_info)})", "{{job}} {{version}}"),),
                    width=6,
                ),
                Panel(
                    "Processor",
                    "Cores in use per process.",
                    "short",
                    (
                        Query(
                            f"sum by (job, instance) ({ours(_PROCESSOR)})",
                            "{{job}} {{instance}}",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    "Memory",
                    "Resident memory per process.",
                    "bytes",
                    (
                        Query(
                            ours(_MEMORY),
                            "{{job}} {{instance}}",
                        ),
                    ),
                    width=6,
                ),
                Panel(
                    "Database connections",
                    "In use, idle, or being replaced; and calls that wait for one.",
                    "short",
                    (
                        Query(f"sum by (job, state) ({of(Signals.database_connections)})", "{{job}} {{state}}"),
                        Query(f"sum by (job) ({of(Signals.database_waiting)})", "{{job}} waiting"),
                    ),
                    width=6,
                ),
            ),
        ),
    ),
)
