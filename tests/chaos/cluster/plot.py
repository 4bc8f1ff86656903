"""A run as pictures: SVG, written by hand, with nothing in it but shapes and text.

One axis of time for all three: which faults were there, what became of requests, and how long answers took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from html import escape

from tests.chaos.cluster.measure import BIN_S, Bin, End, Measured, Strike

WIDTH, LEFT, RIGHT = 1000, 185, 15
LANE, PANEL, GAP, HEAD = 16, 150, 40, 20
COLOURS = {
    End.DONE: "#2f855a",
    End.REFUSED: "#9ae6b4",
    End.UNAVAILABLE: "#f6ad55",
    End.UNKNOWN: "#d53f8c",
    End.NO_ANSWER: "#742a2a",
}
FAULT, INK, PALE = "#4a5568", "#1a202c", "#cbd5e0"
P50, P99 = "#3182ce", "#c05621"
TICKS_S = (5, 10, 30, 60, 120, 300, 600)
TICKS_MAX = 12


def timeline(run: Measured) -> str:
    """The whole picture."""
    span_s = max([run.seconds, BIN_S, *(strike.to_s for strike in run.strikes)])

    def x(at_s: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * at_s / span_s

    lanes = _lanes(run.strikes)
    faults_end = HEAD + LANE * len(lanes)
    done_at, took_at = faults_end + GAP, faults_end + 2 * GAP + PANEL
    height = took_at + PANEL + GAP
    shapes = [
        *_faults(lanes, x),
        *_throughput(run.bins, x, done_at),
        *_latency(run.bins, x, took_at),
        *_axis(span_s, x, height - GAP + 15, HEAD),
    ]
    return _svg(height, "Faults, requests by second, and latency over the time of the run", shapes)


def _lanes(strikes: Iterable[Strike]) -> list[list[Strike]]:
    """A line for each fault, in the order of their first time."""
    lanes: dict[str, list[Strike]] = {}
    for strike in strikes:
        lanes.setdefault(strike.name, []).append(strike)
    return list(lanes.values())


def _faults(lanes: Sequence[Sequence[Strike]], x: Callable[[float], float]) -> Iterator[str]:
    for number, lane in enumerate(lanes):
        y = HEAD + LANE * number
        for strike in lane:
            width = max(1.0, x(strike.to_s) - x(strike.from_s))
            said = f"{strike.name}: {strike.from_s:.0f} to {strike.to_s:.0f} s"
            yield _box(x(strike.from_s), y + 2, width, LANE - 4, FAULT, said)
        yield _text(LEFT - 5, y + LANE - 4, lane[0].name, "end")


def _throughput(bins: Sequence[Bin], x: Callable[[float], float], top: float) -> Iterator[str]:
    """Stacked: requests in each second, by what became of them."""
    most = max((len(one.crowd.requests) for one in bins), default=1) / BIN_S
    bottom = top + PANEL
    yield from _frame("requests/s", most, top)
    for one in bins:
        y = bottom
        ends = one.crowd.ends
        for end in End:
            high = PANEL * ends[end] / BIN_S / most
            y -= high
            if high:
                said = f"{one.from_s:.0f} s, {end}: {ends[end]}"
                yield _box(x(one.from_s), y, x(one.from_s + BIN_S) - x(one.from_s) - 0.5, high, COLOURS[end], said)
    for number, end in enumerate(End):
        yield _box(LEFT + 150 * number, top - 15, 10, 10, COLOURS[end], str(end))
        yield _text(LEFT + 14 + 150 * number, top - 6, str(end))


def _latency(bins: Sequence[Bin], x: Callable[[float], float], top: float) -> Iterator[str]:
    """Of what was answered: the median and the 99th percentile of each bin."""
    lines = [(0.5, P50, "median"), (0.99, P99, "99 of 100")]
    most = max((one.crowd.latency_ms(0.99) or 0 for one in bins), default=0) or 1.0
    yield from _frame("ms", most, top)
    for number, (share, colour, name) in enumerate(lines):
        points = [
            f"{x(one.from_s + BIN_S / 2):.1f},{top + PANEL - PANEL * ms / most:.1f}"
            for one in bins
            if (ms := one.crowd.latency_ms(share)) is not None
        ]
        yield f'<polyline points="{" ".join(points)}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        yield _box(LEFT + 150 * number, top - 15, 10, 10, colour, name)
        yield _text(LEFT + 14 + 150 * number, top - 6, name)


def _frame(unit: str, most: float, top: float) -> Iterator[str]:
    yield _line(LEFT, top + PANEL, WIDTH - RIGHT, top + PANEL)
    yield _line(LEFT, top, WIDTH - RIGHT, top)
    yield _text(LEFT - 5, top + 10, f"{most:.0f} {unit}", "end")
    yield _text(LEFT - 5, top + PANEL, "0", "end")


def _axis(span_s: float, x: Callable[[float], float], y: float, top: float) -> Iterator[str]:
    step_s = next((step_s for step_s in TICKS_S if span_s / step_s <= TICKS_MAX), TICKS_S[-1])
    for tick in range(int(span_s / step_s) + 1):
        at_s = float(tick * step_s)
        yield _line(x(at_s), top, x(at_s), y - 12)
        yield _text(x(at_s), y, f"{at_s:.0f} s", "middle")


# -- shapes


def _svg(height: float, title: str, shapes: Iterable[str]) -> str:
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img"'
            ' font-family="sans-serif" font-size="11">',
            f"<title>{escape(title)}</title>",
            f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _box(x: float, y: float, width: float, height: float, colour: str, said: str) -> str:
    at = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {at} fill="{colour}"><title>{escape(said)}</title></rect>'


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{PALE}" stroke-width="0.5"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{INK}" text-anchor="{anchor}">{escape(text)}</text>'
