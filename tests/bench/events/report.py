"""The shapes of the part about events: Markdown for the terminal and the documentation, a JSON file with every slot."""

from collections.abc import Sequence

import msgspec

from tests.bench.events.figures import OWNER, PUBLISHING, Mailed, Relayed, RelayFigures
from tests.bench.report import MISSING, OTHER_CORES_MAX, table

BEGIN, END = "<!-- events:begin -->", "<!-- events:end -->"
# A create that begins later than this after its time is the harness's fault, not the stack's.
BEHIND_MAX_S = 0.5


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run knows about itself; the JSON file is this."""

    started: str
    command: str
    plan: str
    machine: dict[str, str]
    relays: list[RelayFigures]
    mails: Mailed
    samples: list[Relayed]


def warnings(report: Report) -> list[str]:
    """What a reader must know before believing the figures."""
    mails = report.mails
    found = [f"{one.way}, {one.work}: {wrong}" for one in report.samples for wrong in one.wrong]
    found += [f"creates: {kind}, {count} times" for kind, count in mails.errors.items()]
    if mails.missing:
        found.append(f"{mails.missing} mails were not seen")
    if mails.behind_s > BEHIND_MAX_S:
        found.append(f"a create began {mails.behind_s:.1f} s after its time: repeat on a quiet machine")
    busiest = max((one.other_cores or 0.0 for one in report.samples), default=0.0)
    if busiest > OTHER_CORES_MAX:
        found.append(f"other programs kept up to {busiest:.1f} cores busy: repeat on a quiet machine")
    return found


def wrong(report: Report) -> bool:
    """Whether something failed, beyond being slow."""
    return bool(report.mails.errors or report.mails.missing or any(one.wrong for one in report.samples))


def relays_table(relays: Sequence[RelayFigures]) -> str:
    others = sorted({name for one in relays for name in one.cpu_us if name not in PUBLISHING})
    heading = ("work", "way", "events/s", "p50 ms", "p99 ms", *PUBLISHING, "sum", *others)
    return table(heading, [_relays_row(one, others) for one in relays])


def _relays_row(one: RelayFigures, others: Sequence[str]) -> list[str]:
    def used(name: str) -> str:
        return f"{one.cpu_us[name]:.0f}" if name in one.cpu_us else MISSING

    return [
        one.work,
        one.way,
        f"{one.per_second:,.0f}",
        f"{one.p50_ms:.1f}",
        f"{one.p99_ms:.1f}",
        *map(used, PUBLISHING),
        f"{one.publishing_us:.0f}" if OWNER in one.cpu_us else MISSING,
        *map(used, others),
    ]


def ratios_table(relays: Sequence[RelayFigures]) -> str:
    """The log's way over the table's, by work; empty where one is missing."""
    by_way = {(one.work, one.way): one for one in relays}
    rows = [
        [
            f"{work}",
            "wal / outbox",
            _ratio(by_way[work, "wal"].per_second, by_way[work, "outbox"].per_second),
            _ratio(by_way[work, "wal"].p50_ms, by_way[work, "outbox"].p50_ms),
            _ratio(by_way[work, "wal"].publishing_us, by_way[work, "outbox"].publishing_us),
        ]
        for work in dict.fromkeys(one.work for one in relays)
        if (work, "wal") in by_way and (work, "outbox") in by_way
    ]
    return table(("work", "", "events/s", "p50", "processor time"), rows) if rows else ""


def _ratio(over: float, under: float) -> str:
    return f"{over / under:.2f}" if under else MISSING


def mails_table(mails: Mailed) -> str:
    """The promise's latency, and what each process used for a create with its mail."""
    processes = sorted(mails.cpu_us)
    heading = ("creates", "mails", "creates/s", "p50 s", "p99 s", "longest s", *processes)
    figures = [f"{mails.rate:g}", f"{mails.p50_s:.2f}", f"{mails.p99_s:.2f}", f"{mails.longest_s:.2f}"]
    used = [f"{mails.cpu_us[name]:.0f}" for name in processes]
    return table(heading, [[f"{mails.created:,}", f"{mails.mailed:,}", *figures, *used]])


def targets_table(mails: Mailed) -> str:
    name = f"from a create's answer to its mail's acceptance, p99 at {mails.rate:g} creates/s"
    outcome = ("reached" if mails.kept else "NOT REACHED") if mails.created else "not measured"
    measured = f"{mails.p99_s:.3g} s" if mails.mailed else MISSING
    row = [name, outcome, f"≤ {mails.limit_s:g} s", measured]
    return table(("target", "outcome", "promised", "measured"), [row])


def markdown(report: Report) -> str:
    """What goes between the markers of docs/performance.md, and to the terminal."""
    parts = [
        f"{report.started}, `{report.command}`: {report.plan}.",
        "\n".join(f"- {name}: {value}" for name, value in report.machine.items()),
        "Medians over the rounds; after p99, µs of processor time per event.",
        relays_table(report.relays),
        ratios_table(report.relays),
        "After the longest wait, µs of processor time of each process per create.",
        mails_table(report.mails),
        targets_table(report.mails),
        "\n".join(f"- **{warning}**" for warning in warnings(report)),
    ]
    return "\n\n".join(part for part in parts if part)
