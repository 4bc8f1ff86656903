"""The relationship: how creates end, who was slow, what had to be undone, and how far settling is behind."""

from __future__ import annotations

from observability.dashboards.panels import Dashboard, Panel, Query, Row, of, quantiles, rate
from tally.chassis.signals import Signals

_FANOUT = Signals.fanout_duration_seconds
_CREATES = rate(_FANOUT, suffix="_count", operation="create")
_LAG = of(Signals.settlement_lag_seconds)
_CALLS = Signals.http_client_request_duration_seconds

DASHBOARD = Dashboard(
    "relationship",
    "Tally / Relationship",
    "An attendance exists if and only if both of its halves are live. How creates end, what is undone, and how long a "
    "lone half may live.",
    (
        Row(
            "Creates",
            (
                Panel(
                    "Creates by outcome",
                    "Attempts per second: done, refused (nothing is recorded, now or later), or unknown until settled.",
                    "ops",
                    (Query(f"sum by (outcome) ({_CREATES})", "{{outcome}}"),),
                    runbooks=("TallyOutcomesUnknown",),
                    stacked=True,
                ),
                Panel(
                    "Fan-out duration",
                    "Until both participants had answered a create, or its time was over. The dots are traces.",
                    "s",
                    quantiles(_FANOUT, "operation", 0.5, 0.95, 0.99, operation="create"),
                ),
                Panel(
                    "Slowest participant",
                    "The 99th percentile of calls to each participant, by kind: the slowest one is what a create waits "
                    "for. The dots are traces.",
                    "s",
                    (
                        Query(
                            f"histogram_quantile(0.99, sum by (peer, kind, le) ({rate(_CALLS, suffix='_bucket')}))",
                            "{{peer}} {{kind}}",
                            exemplars=True,
                        ),
                    ),
                ),
                Panel(
                    "What participants said",
                    "Per second, in creates: recorded, dead (refused, and so for ever), silent or unsent.",
                    "ops",
                    (
                        Query(
                            f"sum by (peer, outcome) ({rate(Signals.fanout_calls_total, operation='create')})",
                            "{{peer}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Requests per batch",
                    "How many requests share one call: 1 means that nothing was coalesced.",
                    "short",
                    (
                        Query(
                            f"sum by (peer) ({rate(Signals.batch_items, suffix='_sum')}) / "
                            f"sum by (peer) ({rate(Signals.batch_items, suffix='_count')})",
                            "{{peer}}",
                        ),
                    ),
                ),
                Panel(
                    "Reads without one side",
                    "Reads per second that showed what the other side knows, by who was missing; and all reads.",
                    "ops",
                    (
                        Query(f"sum by (peer) ({rate(Signals.degraded_reads_total)})", "{{peer}} missing"),
                        Query(f"sum by (operation) ({rate(_FANOUT, suffix='_count', operation='read')})", "all"),
                    ),
                ),
            ),
        ),
        Row(
            "Compensations",
            (
                Panel(
                    "Compensations by reason",
                    "Halves undone per second, because of what the other side said.",
                    "ops",
                    (Query(f"sum by (reason) ({rate(Signals.compensations_total)})", "{{reason}}"),),
                    width=12,
                    stacked=True,
                ),
                Panel(
                    "Compensations by result",
                    "dead: undone; silent or stale: not known to be, which the settler mends.",
                    "ops",
                    (Query(f"sum by (outcome) ({rate(Signals.compensations_total)})", "{{outcome}}"),),
                    width=12,
                    runbooks=("TallyCompensationFailing",),
                ),
            ),
        ),
        Row(
            "Settling",
            (
                Panel(
                    "Settlement lag",
                    "The age of the newest settled epoch: how long a lone half may live. Grows while a side is away.",
                    "s",
                    (
                        Query(
                            f"min by (namespace, job, relationship) ({_LAG})", "{{namespace}} {{job}} {{relationship}}"
                        ),
                    ),
                    runbooks=("TallySettlementStuck",),
                    red_from=60,
                ),
                Panel(
                    "Epochs",
                    "Rounds of the settler per second: settled, or failed and begun anew.",
                    "ops",
                    (
                        Query(
                            f"sum by (relationship, outcome) ({rate(Signals.epochs_total)})",
                            "{{relationship}} {{outcome}}",
                        ),
                    ),
                    runbooks=("TallySettlementStuck",),
                ),
                Panel(
                    "Settled halves",
                    "Per second: confirmed once and for all, voided because they were alone, or a cancel carried over.",
                    "ops",
                    (Query(f"sum by (outcome) ({rate(Signals.settled_total)})", "{{outcome}}"),),
                    runbooks=("TallyLoneHalvesGrowing",),
                ),
                Panel(
                    "Lone halves",
                    "Halves without a live peer in the last round. A crash or an outage leaves some; the round kills "
                    "them.",
                    "short",
                    (Query(f"max by (relationship) ({of(Signals.lone_halves)})", "{{relationship}}"),),
                    runbooks=("TallyLoneHalvesGrowing",),
                ),
                Panel(
                    "Seats",
                    "In all entities that have a capacity. A restore may overbook, so taken may exceed the capacity.",
                    "short",
                    (
                        Query(f"max by (relationship) ({of(Signals.seats_taken)})", "{{relationship}} taken"),
                        Query(f"max by (relationship) ({of(Signals.seats_capacity)})", "{{relationship}} capacity"),
                    ),
                ),
                Panel(
                    "Invariant violations",
                    "Broken promises since the processes started. 0, always.",
                    "short",
                    (Query(f"sum by (job, invariant) ({of(Signals.invariant_violations_total)})", "{{invariant}}"),),
                    runbooks=("TallyInvariantViolated",),
                    red_from=1,
                ),
            ),
        ),
    ),
)
