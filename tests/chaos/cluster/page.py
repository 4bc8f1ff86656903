"""The report of a run, as Markdown and as HTML: both from the same blocks, so that they can't differ.

Markdown shows the picture from a file beside it; HTML holds it, and needs nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from tests.chaos.answers import stalled_ns
from tests.chaos.cluster.measure import ANSWERED, Crowd, End, Measured, Strike, measured
from tests.chaos.cluster.plot import timeline
from tests.chaos.history import History, Kind
from tests.chaos.report import answer, latencies, under_load
from tests.chaos.verdict import EXAMPLES_MAX, Verdict

NOTHING = "–"


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    svg: str
    says: str


Block = Heading | Text | Items | Table | Picture


def blocks(history: History, verdicts: Sequence[Verdict], breaks: Mapping[str, str]) -> list[Block]:
    """The report; `breaks` says of each fault what it breaks."""
    run = measured(history)
    return [
        Heading(f"A run of {run.seconds:.0f} s, seed {history.header.seed}", 2),
        Text(_summary(history, run, verdicts)),
        Picture(timeline(run), "Faults, requests per second by what became of them, and latency, over time"),
        Heading("Verdicts", 3),
        Table(
            ("verdict", "invariant", "claim", "checked"),
            [(one.word, one.name, one.claim, str(one.checked)) for one in verdicts],
        ),
        *_examples(verdicts),
        Heading("What each fault cost", 3),
        Text(
            "In the order in which they came. A fault lasts until all pods are ready again, so what it cost is more "
            "than what it broke. A request counts for each fault in which it began. *Answered* means 2xx, or a refusal "
            "for a reason of its own (404, 409); 503, 504 and broken connections are not answers."
        ),
        Table(
            ("fault", "from … to s", "requests", "writes answered", "reads answered", "lists whole", "503", "504",
             "no answer", "p50 / p99 ms"),
            [_row("(none)", NOTHING, run.calm), *(_struck(strike) for strike in run.strikes)],
        ),
        Heading("What the faults break", 3),
        Table(("fault", "times", "what breaks"), _explained(run, breaks)),
        Heading("What was asked", 3),
        Table(("request", "number", "answers", "p50 / p99 / max ms"), _asked(history)),
    ]  # fmt: skip


def _summary(history: History, run: Measured, verdicts: Sequence[Verdict]) -> str:
    header = history.header
    words = Counter(verdict.word for verdict in verdicts)
    said = ", ".join(f"{number} {'hold' if word == 'holds' else word}" for word, number in words.items())
    ends_ns = [stall.at_ns for stall in history.stalls]
    stalled_s = stalled_ns(history, 0, max(ends_ns, default=0)) / 1e9
    versions = ", ".join(f"{name} {value}" for name, value in header.versions.items())
    return (
        f"{header.started_at[:16].replace('T', ' ')} UTC: {len(run.all.requests)} requests by {header.clients} "
        f"clients, {len(run.strikes)} faults of {len({strike.name for strike in run.strikes})} kinds on "
        f"{header.environment.get('nodes', '?')} nodes. Of {len(verdicts)} invariants {said}. "
        f"{_share(run.all.available)} of all requests were answered, {_share(run.calm.available)} while nothing was "
        f"broken. {_settled(history)} For {stalled_s:.0f} s in all the machine did not run who only looked at the "
        f"clock. {versions}."
    )


def _settled(history: History) -> str:
    if not history.settlements:
        return "The run ended before it settled."
    first = history.settlements[0]
    return (
        f"Both sides had settled {first.waited_s:.1f} s after the last fault was mended."
        if first.reached
        else f"Both sides had not settled {first.waited_s:.1f} s after the last fault was mended."
    )


def _examples(verdicts: Sequence[Verdict]) -> list[Block]:
    found: list[Block] = []
    for verdict in verdicts:
        if verdict.violations:
            found.append(Text(f"**{verdict.name}**: {len(verdict.violations)} violations"))
            found.append(Items(verdict.violations[:EXAMPLES_MAX]))
    return found


def _struck(strike: Strike) -> Sequence[str]:
    return _row(strike.name, f"{strike.from_s:.0f} … {strike.to_s:.0f}", strike.crowd)


def _row(name: str, when: str, crowd: Crowd) -> Sequence[str]:
    ends = crowd.ends
    return (
        name,
        when,
        str(len(crowd.requests)),
        _share(crowd.writes.available),
        _share(crowd.reads.available),
        _share(crowd.whole),
        *(str(ends[end]) for end in End if end not in ANSWERED),
        f"{_ms(crowd.latency_ms(0.5))} / {_ms(crowd.latency_ms(0.99))}",
    )


def _explained(run: Measured, breaks: Mapping[str, str]) -> list[Sequence[str]]:
    times = Counter(strike.name for strike in run.strikes)
    return [(name, str(times[name]), breaks.get(name, NOTHING)) for name in sorted(times)]


def _asked(history: History) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for kind in Kind:
        requests = [request for request in under_load(history) if request.start.kind is kind]
        if requests:
            answers = Counter(answer(request) for request in requests).most_common()
            said = ", ".join(f"{name} × {number}" for name, number in answers)
            rows.append((str(kind), str(len(requests)), said, latencies(requests)))
    return rows


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.1f} %"


def _ms(ms: float | None) -> str:
    return NOTHING if ms is None else f"{ms:.0f}"


# -- Markdown


def as_markdown(page: Sequence[Block], picture: Callable[[str], str]) -> str:
    """`picture` keeps an SVG somewhere, and answers its address."""
    return "\n\n".join(_in_markdown(block, picture) for block in page) + "\n"


def _in_markdown(block: Block, picture: Callable[[str], str]) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Items(items):
            return "\n".join(f"- {item}" for item in items)
        case Table(head, rows):
            lines = [head, ["---"] * len(head), *rows]
            return "\n".join("| " + " | ".join(line) + " |" for line in lines)
        case Picture(svg, says):
            return f"![{says}]({picture(svg)})"


# -- HTML

_STYLE = """
body { font: 15px/1.5 sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #1a202c; }
table { border-collapse: collapse; font-size: 13px; }
th, td { text-align: left; vertical-align: top; padding: 3px 10px 3px 0; border-bottom: 1px solid #e2e8f0; }
svg { width: 100%; height: auto; }
.VIOLATED { color: #c53030; font-weight: bold; } .holds { color: #2f855a; } .undecided { color: #b7791f; }
"""


def as_html(title: str, page: Sequence[Block]) -> str:
    """One file, for a browser."""
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>',
            f"<style>{_STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *map(_in_html, page),
            "</body></html>\n",
        ]
    )


def _in_html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{escape(text.replace('*', ''))}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{escape(item)}</li>" for item in items) + "</ul>"
        case Table(head, rows):
            first = "".join(f"<th>{escape(cell)}</th>" for cell in head)
            return f"<table><tr>{first}</tr>" + "".join(map(_row_in_html, rows)) + "</table>"
        case Picture(svg, _):
            return svg


def _row_in_html(row: Sequence[str]) -> str:
    cells = "".join(
        f'<td class="{cell}">{cell}</td>' if cell in ("VIOLATED", "holds", "undecided") else f"<td>{escape(cell)}</td>"
        for cell in row
    )
    return f"<tr>{cells}</tr>"
