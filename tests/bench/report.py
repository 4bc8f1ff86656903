"""The shapes of a run: Markdown for the terminal and the documentation, a JSON file with every sample."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from tests.bench.figures import NOT_SERVICES, Figures, Verdict
from tests.bench.rounds import Sample

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
MISSING = "-"
# Above this, other programs used so much that the figures say little.
OTHER_CORES_MAX = 0.2


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a run knows about itself; the JSON file is this."""

    started: str
    command: str
    rounds: int
    seconds: float
    titles: dict[str, str]
    machine: dict[str, str]
    postgres: dict[str, dict[str, str]]
    figures: list[Figures]
    verdicts: list[Verdict]
    warnings: list[str]
    samples: list[Sample]


def warnings(figures: Sequence[Figures], postgres: Mapping[str, Mapping[str, str]]) -> list[str]:
    """What a reader must know before believing the figures."""
    found = [
        f"({one.candidate}) {one.level.work} at {one.level.clients}: {kind}, {count} times"
        for one in figures
        for kind, count in one.errors.items()
    ]
    found += [
        f"({one.candidate}) {one.level.work} at {one.level.clients}: {wrong}" for one in figures for wrong in one.wrong
    ]
    reference = next(iter(postgres.values()), {})
    for letter, settings in postgres.items():
        differing = {name: value for name, value in settings.items() if value != reference[name]}
        if differing:
            found.append(f"({letter}) ran on a PostgreSQL with other settings: {differing}")
    busiest = max((one.other_cores or 0.0 for one in figures), default=0.0)
    if busiest > OTHER_CORES_MAX:
        found.append(f"other programs kept up to {busiest:.1f} cores busy: repeat on a quiet machine")
    return found


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that also reads well on a terminal: two columns of text, the others numbers."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]

    def line(cells: Sequence[str]) -> str:
        padded = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 2) if column < 2 else "-" * (width + 1) + ":" for column, width in enumerate(widths))
    return "\n".join([line(heading), f"|{rule}|", *map(line, rows)])


def figures_table(report: Report) -> str:
    processes = sorted({name for one in report.figures for name in one.cpu_us}, key=place_of_process)
    heading = ("work, clients", "candidate", "per second", "p50 ms", "p99 ms", *processes)
    rows = [figures_row(one, report.titles[one.candidate], processes) for one in report.figures]
    return table(heading, rows)


def place_of_process(name: str) -> tuple[bool, str]:
    """The services first."""
    return name in NOT_SERVICES, name


def figures_row(one: Figures, title: str, processes: Sequence[str]) -> list[str]:
    return [
        f"{one.level.work}, {one.level.clients}",
        f"({one.candidate}) {title}",
        f"{one.per_second:,.0f}",
        f"{one.p50_ms:.2f}",
        f"{one.p99_ms:.2f}",
        *(f"{one.cpu_us[name]:.0f}" if name in one.cpu_us else MISSING for name in processes),
    ]


def verdicts_table(report: Report) -> str:
    heading = ("target", "outcome", "promised", "measured", "single rounds")
    return table(heading, [verdict_row(verdict) for verdict in report.verdicts])


def verdict_row(verdict: Verdict) -> list[str]:
    outcome = {True: "reached", False: "NOT REACHED", None: "not measured"}[verdict.reached]
    if verdict.value is None:
        return [verdict.name, outcome, f"{verdict.promise} {verdict.unit}", MISSING, MISSING]
    return [
        verdict.name,
        outcome,
        f"{verdict.promise} {verdict.unit}",
        f"{verdict.value:.3g} {verdict.unit}",
        f"{verdict.lowest:.3g} to {verdict.highest:.3g}",
    ]


def ratios_table(report: Report) -> str:
    """Tally's operations per second over each other candidate's, by level; empty without Tally."""
    speed = {(one.level, one.candidate): one.per_second for one in report.figures}
    others = [letter for letter in report.titles if letter != "d"]
    rows = [
        [
            f"{level.work}, {level.clients}",
            f"{ours:,.0f}/s",
            *(f"{ours / speed[level, other]:.2f}" if speed.get((level, other)) else MISSING for other in others),
        ]
        for (level, letter), ours in speed.items()
        if letter == "d"
    ]
    return table(("work, clients", "(d)", *(f"(d) / ({other})" for other in others)), rows) if rows else ""


def markdown(report: Report) -> str:
    """What goes between the markers of docs/performance.md, and to the terminal."""
    settings = ", ".join(f"{name} {value}" for name, value in next(iter(report.postgres.values()), {}).items())
    parts = [
        f"{report.started}, `{report.command}`: {report.rounds} rounds, {report.seconds:g} s per slot.",
        "\n".join(f"- {name}: {value}" for name, value in [*report.machine.items(), ("PostgreSQL", settings)]),
        "Medians over the rounds; after p99, µs of processor time of each process per operation.",
        figures_table(report),
        ratios_table(report),
        verdicts_table(report),
        "\n".join(f"- **{warning}**" for warning in report.warnings),
    ]
    return "\n\n".join(part for part in parts if part)


def between_markers(document: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """The document with what stands between its markers replaced; ValueError if it has none in order."""
    before, begun, rest = document.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise ValueError(f"the document has no {begin} … {end}")
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def save_json(report: msgspec.Struct, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
