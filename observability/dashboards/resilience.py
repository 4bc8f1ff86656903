"""Who is thought to be down, what was not even tried, what was tried again, and what goes wrong on purpose."""

from __future__ import annotations

from observability.dashboards.panels import Dashboard, Panel, Query, Row, of, quantile, rate
from tally.chassis.signals import Signals

_STATES = (
    (0, "closed", "green"),
    (1, "half-open", "yellow"),
    (2, "open", "red"),
    (3, "forced open", "dark-red"),
    (4, "forced closed", "blue"),
    (5, "observing", "purple"),
)
_CALLS = Signals.http_client_request_duration_seconds

DASHBOARD = Dashboard(
    "resilience",
    "Tally / Resilience",
    "Breakers, retries, bulkheads, deadlines and shedding around each call, and the faults that are switched on.",
    (
        Row(
            "Breakers",
            (
                Panel(
                    "Breaker state",
                    "Per caller, peer and kind of call; each replica has its own. One that nobody asks stays open.",
                    "none",
                    (
                        Query(
                            f"max by (job, peer, kind) ({of(Signals.breaker_state)})",
                            "{{job}} → {{peer}} {{kind}}",
                        ),
                    ),
                    kind="state-timeline",
                    width=24,
                    height=7,
                    runbooks=("TallyBreakerOpen", "TallyBreakerForcedOpen"),
                    states=_STATES,
                ),
                Panel(
                    "Openings",
                    "How often breakers opened, per second.",
                    "ops",
                    (
                        Query(
                            f"sum by (peer, kind) ({rate(Signals.breaker_transitions_total, to_state='open')})",
                            "{{peer}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    "Calls not made: open",
                    "Rejected at once because the breaker was open, per second.",
                    "ops",
                    (
                        Query(
                            f"sum by (peer, kind) ({rate(Signals.breaker_rejections_total)})",
                            "{{peer}} {{kind}}",
                        ),
                    ),
                    runbooks=("TallyBreakerOpen",),
                ),
                Panel(
                    "Calls by outcome",
                    "Single attempts per second: reply, rejected (with a problem), silent (in doubt), or not sent.",
                    "ops",
                    (Query(f"sum by (peer, outcome) ({rate(_CALLS, suffix='_count')})", "{{peer}} {{outcome}}"),),
                ),
            ),
        ),
        Row(
            "Retries",
            (
                Panel(
                    "Retries by reason",
                    "Calls made again, per second.",
                    "ops",
                    (Query(f"sum by (peer, reason) ({rate(Signals.retries_total)})", "{{peer}} {{reason}}"),),
                ),
                Panel(
                    "Retry budget in use",
                    "Retries per call over the last seconds, by replica; at 10 % there are no more.",
                    "percentunit",
                    (Query(of(Signals.retry_budget_ratio), "{{job}} {{instance}} → {{peer}}"),),
                    red_from=0.1,
                ),
                Panel(
                    "Retries refused, and hedges",
                    "Calls not made again because the budget was spent; reads sent twice because the first was slow.",
                    "ops",
                    (
                        Query(f"sum by (peer) ({rate(Signals.retries_refused_total)})", "{{peer}} refused"),
                        Query(f"sum by (peer) ({rate(Signals.hedges_total)})", "{{peer}} hedged"),
                    ),
                ),
            ),
        ),
        Row(
            "Room",
            (
                Panel(
                    "Bulkheads",
                    "Calls to each peer under way, and waiting for a place.",
                    "short",
                    (
                        Query(f"sum by (peer) ({of(Signals.bulkhead_in_use)})", "{{peer}} in use"),
                        Query(f"sum by (peer) ({of(Signals.bulkhead_waiting)})", "{{peer}} waiting"),
                    ),
                ),
                Panel(
                    "Calls not made: bulkhead full",
                    "Rejected because too many calls to the peer were under way, per second.",
                    "ops",
                    (
                        Query(
                            f"sum by (peer, kind) ({rate(Signals.bulkhead_rejections_total)})",
                            "{{peer}} {{kind}}",
                        ),
                    ),
                ),
                Panel(
                    "Requests shed",
                    "Refused early with 503 and Retry-After, before anything was begun, per second.",
                    "reqps",
                    (Query(f"sum by (job, reason) ({rate(Signals.shed_total)})", "{{job}} {{reason}}"),),
                ),
                Panel(
                    "Requests in flight",
                    "Under way now, and how many may be.",
                    "short",
                    (
                        Query(f"sum by (job) ({of(Signals.requests_in_flight)})", "{{job}}"),
                        Query(f"sum by (job) ({of(Signals.requests_limit)})", "{{job}} limit"),
                    ),
                ),
                Panel(
                    "Deadlines exceeded",
                    "Requests per second that were not answered in time, or answered that their time was over.",
                    "reqps",
                    (Query(f"sum by (job) ({rate(Signals.deadlines_exceeded_total)})", "{{job}}"),),
                ),
                Panel(
                    "Database",
                    "Calls that wait for a connection now, and those per second that got none in time.",
                    "short",
                    (
                        Query(f"sum by (job) ({of(Signals.database_waiting)})", "{{job}} waiting"),
                        Query(f"sum by (job) ({rate(Signals.database_refused_total)})", "{{job}} refused"),
                    ),
                ),
            ),
        ),
        Row(
            "Peers and faults",
            (
                Panel(
                    "Duration of calls",
                    "The 99th percentile of single attempts. The dots are traces.",
                    "s",
                    (Query(quantile(0.99, _CALLS, "job, peer"), "{{job}} → {{peer}}", exemplars=True),),
                ),
                Panel(
                    "Faults on",
                    "Switched on for an experiment; each ends by itself. (Absent where TALLY_FAULTS is off.)",
                    "short",
                    (Query(f"max by (job, fault) ({of(Signals.fault_active)})", "{{job}} {{fault}}"),),
                ),
                Panel(
                    "Tokens refused",
                    "Calls per second whose service token was not accepted, by what was wrong with it.",
                    "ops",
                    (Query(f"sum by (job, reason) ({rate(Signals.tokens_refused_total)})", "{{job}} {{reason}}"),),
                    runbooks=("TallyTokensRefused",),
                ),
                Panel(
                    "Tokens",
                    "How long the tokens that services show each other are still valid: they are renewed at four "
                    "fifths of their life.",
                    "s",
                    (
                        Query(
                            f"min by (job, peer) ({of(Signals.token_expires_seconds)})",
                            "{{job}} → {{peer}}",
                        ),
                    ),
                    runbooks=("TallyTokenExpires",),
                ),
                Panel(
                    "Certificates",
                    "How long the certificates of the services' own ports are still valid. (Absent without TLS.)",
                    "s",
                    (Query(f"min by (job) ({of(Signals.certificate_expires_seconds)})", "{{job}}"),),
                    runbooks=("TallyCertificateExpires",),
                ),
            ),
        ),
    ),
)
