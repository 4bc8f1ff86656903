"""What was written, and who has heard of it: outbox, stream, consumers, projections, mails."""

from __future__ import annotations

from observability.dashboards.panels import Dashboard, Panel, Query, Row, of, rate
from tally.chassis.signals import Signals

DASHBOARD = Dashboard(
    "events",
    "Tally / Events",
    "Each change writes its event in the same transaction; relays publish them, consumers apply them in order.",
    (
        Row(
            "Outbox and relay",
            (
                Panel(
                    "Events waiting",
                    "In each outbox, not yet published.",
                    "short",
                    (Query(f"max by (job) ({of(Signals.outbox_rows)})", "{{job}}"),),
                    runbooks=("TallyOutboxStuck",),
                ),
                Panel(
                    "Oldest event waiting",
                    "Its age: how far the stream is behind the databases.",
                    "s",
                    (Query(f"max by (job) ({of(Signals.outbox_oldest_seconds)})", "{{job}}"),),
                    runbooks=("TallyOutboxStuck",),
                    red_from=60,
                ),
                Panel(
                    "Published",
                    "Events that the stream has acknowledged, and those that it has not (they are published again).",
                    "ops",
                    (
                        Query(f"sum by (job) ({rate(Signals.published_total)})", "{{job}}"),
                        Query(f"sum by (job) ({rate(Signals.publish_failures_total)})", "{{job}} failed"),
                    ),
                    runbooks=("TallyOutboxStuck",),
                ),
                Panel(
                    "Stream reached",
                    "1 while the process has a connection to the stream.",
                    "none",
                    (Query(f"min by (job) ({of(Signals.stream_connected)})", "{{job}}"),),
                    kind="state-timeline",
                    width=16,
                    height=6,
                    runbooks=("TallyOutboxStuck",),
                    states=((0, "away", "red"), (1, "connected", "green")),
                ),
                Panel(
                    "Log kept for the relay",
                    "What the database must keep until the relay has read it. (Absent unless TALLY_RELAY=wal.)",
                    "bytes",
                    (Query(f"max by (job) ({of(Signals.slot_lag_bytes)})", "{{job}}"),),
                    height=6,
                    runbooks=("TallyOutboxStuck",),
                ),
            ),
        ),
        Row(
            "Consumers",
            (
                Panel(
                    "Consumed by outcome",
                    "Messages per second: applied, duplicate, parked or failed.",
                    "ops",
                    (
                        Query(
                            f"sum by (consumer, outcome) ({rate(Signals.consumed_total)})",
                            "{{consumer}} {{outcome}}",
                        ),
                    ),
                ),
                Panel(
                    "Stream lag",
                    "Messages that a consumer has not been given yet.",
                    "short",
                    (Query(f"max by (consumer) ({of(Signals.stream_pending)})", "{{consumer}}"),),
                    runbooks=("TallyConsumerStalled", "TallyProjectionLag"),
                ),
                Panel(
                    "Redeliveries",
                    "Messages delivered more than once, per second: a consumer crashed, or was too slow.",
                    "ops",
                    (Query(f"sum by (consumer) ({rate(Signals.redelivered_total)})", "{{consumer}}"),),
                ),
                Panel(
                    "Projection lag",
                    "How long the newest event had been waiting when it was applied.",
                    "s",
                    (Query(f"max by (job, projection) ({of(Signals.projection_lag_seconds)})", "{{projection}}"),),
                    runbooks=("TallyProjectionLag",),
                    red_from=60,
                ),
                Panel(
                    "Parked messages",
                    "Set aside because they could not be applied, with their entity's successors.",
                    "short",
                    (Query(f"max by (job, consumer) ({of(Signals.parked_messages)})", "{{consumer}}"),),
                    runbooks=("TallyMessagesParked",),
                    red_from=1,
                ),
                Panel(
                    "Rebuild",
                    "How far the rebuild of the read view is; 100 % when none is under way.",
                    "percentunit",
                    (Query(f"min by (job) ({of(Signals.rebuild_progress_ratio)})", "{{job}}"),),
                ),
            ),
        ),
        Row(
            "Mails",
            (
                Panel(
                    "Mails",
                    "Per second, by kind and by what became of them.",
                    "ops",
                    (Query(f"sum by (kind, outcome) ({rate(Signals.mails_total)})", "{{kind}} {{outcome}}"),),
                ),
                Panel(
                    "Mails waiting",
                    "Not yet accepted by the mail server.",
                    "short",
                    (Query(f"max by (job) ({of(Signals.mails_waiting)})", "{{job}}"),),
                    runbooks=("TallyMailStuck",),
                ),
                Panel(
                    "Oldest mail waiting",
                    "Its age.",
                    "s",
                    (Query(f"max by (job) ({of(Signals.mail_oldest_seconds)})", "{{job}}"),),
                    runbooks=("TallyMailStuck",),
                ),
            ),
        ),
    ),
)
