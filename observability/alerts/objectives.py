"""The two objectives of the public API, and their rules: how fast each budget is spent, over several windows.

After chapter 5 of Google's "The Site Reliability Workbook": an alert looks at a long window, to be worth a call, and at
a short one, to end soon after the trouble does. A burn of 1 spends the budget in exactly the 30 days that it is for.

======  ============  ============  =====================================  ========
burn    long window   short window  has spent, when it is told             severity
======  ============  ============  =====================================  ========
14.4    1 h           5 min         2 % of the budget                      page
6       6 h           30 min        5 %                                    page
3       1 d           2 h           10 %                                   ticket
1       3 d           6 h           10 %                                   ticket
======  ============  ============  =====================================  ========

Where hardly anybody asks, one failure is a large share: of 60 requests an hour, 17 times the budget. So nothing is told
of fewer than `FEWEST` in the long window; what is down for good is told by other alerts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from tally.chassis.signals import Signals

WINDOWS = ("5m", "30m", "1h", "2h", "6h", "1d", "3d")
BURNS = (
    (14.4, "1h", "5m", "2m", "page"),
    (6, "6h", "30m", "15m", "page"),
    (3, "1d", "2h", "1h", "ticket"),
    (1, "3d", "6h", "3h", "ticket"),
)
#: Bad requests in the long window below which a share says nothing.
FEWEST = 10
#: A latency objective must be a bucket of the histogram, or it can't be counted.
SLOW_S = "0.25"

_HTTP = Signals.http_server_request_duration_seconds.name
_OURS = f"last_over_time({Signals.build_info.name}[$window])"
_PUBLIC = 'http_route!~"/internal/.*|/admin/.*|/livez|/readyz|/startupz|/metrics"'


@dataclass(frozen=True, slots=True)
class Objective:
    """`bad` is PromQL for the bad requests per second, with `$window` to be filled in."""

    name: str
    alert: str
    budget: float
    bad: str
    told: str


def _rate(suffix: str, *matchers: str) -> str:
    """Of our own processes: the name is OpenTelemetry's, and so that of others' in the same Prometheus, too. They are
    looked for in the whole window: what a process failed at counts when it is no more."""
    requests = f"rate({_HTTP}_{suffix}{{{', '.join((_PUBLIC, *matchers))}}}[$window])"
    return f"sum by (namespace, job) ({requests} and on (namespace, job, instance) {_OURS})"


_REQUESTS = "tally:public_requests:rate$window"
_FAILED = 'http_response_status_code=~"5..|none"'
_FAST = f'le="{SLOW_S}"'

OBJECTIVES = (
    Objective(
        "error",
        "TallyAvailabilityBudgetBurn",
        0.001,
        # 0, and not nothing, while none has failed.
        f"{_rate('count', _FAILED)} or 0 * {_REQUESTS}",
        "99.9 % of public requests are not answered with 5xx",
    ),
    Objective(
        "latency",
        "TallyLatencyBudgetBurn",
        0.01,
        f"{_REQUESTS} - {_rate('bucket', _FAST)}",
        f"99 % of public requests are answered within {float(SLOW_S) * 1000:.0f} ms",
    ),
)


def rules() -> str:
    """The rules as a file for Prometheus."""
    head = "# Built from observability/alerts/objectives.py; `make golden` writes it anew.\n"
    # One group for what is recorded: its rules are evaluated in order, and build on each other.
    groups = [{"name": "tally-budgets", "rules": list(_records())}]
    groups += [{"name": f"tally-{one.name}-budget", "rules": list(_alerts(one))} for one in OBJECTIVES]
    return head + yaml.safe_dump({"groups": groups}, sort_keys=False, allow_unicode=True, width=10_000)


def _records() -> Iterator[dict[str, Any]]:
    for window in WINDOWS:
        yield _record(window, _REQUESTS, _rate("count"))
        for one in OBJECTIVES:
            bad = f"tally:{one.name}_requests:rate$window"
            yield _record(window, bad, one.bad)
            # 0, too, while nobody asks.
            spent = f"({bad} / ({_REQUESTS} > 0) or 0 * {_REQUESTS}) / {one.budget}"
            yield _record(window, _burn(one, "$window"), spent)
    for one in OBJECTIVES:
        left = f"tally:{one.name}_budget_left:ratio30d"
        # Of sums: a mean of shares would weigh a request of the night as much as a thousand of the day.
        bad, all_ = (f"sum_over_time({name}[30d])" for name in (f"tally:{one.name}_requests:rate5m", _REQUESTS))
        yield _record("5m", left, f"1 - ({bad} / ({all_} > 0) or 0 * {all_}) / {one.budget}")


def _record(window: str, name: str, expr: str) -> dict[str, Any]:
    return {"record": name.replace("$window", window), "expr": expr.replace("$window", window)}


def _burn(objective: Objective, window: str) -> str:
    return f"tally:{objective.name}_budget_burn:rate{window}"


def _seconds(window: str) -> int:
    return int(window[:-1]) * {"m": 60, "h": 3600, "d": 86400}[window[-1]]


def _alerts(objective: Objective) -> Iterator[dict[str, Any]]:
    for burn, long, short, lasting, severity in BURNS:
        count = f"tally:{objective.name}_requests:rate{long} * {_seconds(long)}"
        yield {
            "alert": objective.alert,
            "expr": f"{_burn(objective, long)} > {burn} and {_burn(objective, short)} > {burn} and {count} >= {FEWEST}",
            "for": lasting,
            "labels": {"severity": severity, "burn": str(burn)},
            "annotations": {
                "summary": f"{{{{ $labels.job }}}} spends its {objective.name} budget {burn} times too fast",
                "description": f"Objective: {objective.told}, over 30 days. The budget was spent "
                f"{{{{ $value | humanize }}}} times faster than that allows over {long}, and still is over {short}.",
                "runbook_url": f"docs/runbooks/{objective.alert}.md",
            },
        }
