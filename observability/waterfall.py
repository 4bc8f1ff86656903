"""A trace as a picture: one bar per span, below the span that it belongs to, on one axis of time.

`docs/create-refused.json` is a real trace (`make trace` records it anew); its picture follows from it, and is golden.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import msgspec

_WIDTH, _LEFT, _RIGHT = 1000, 345, 175
_TOP, _ROW = 46, 24
_COLOURS = ("#4e79a7", "#59a14f", "#b07aa1", "#f28e2b", "#76b7b2")
_FAILED = "#c0392b"
# (It brings its own paper: a page may be dark while its reader's system is light.)
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.head{font-weight:600}.dim{fill:#666}"
    ".axis{stroke:#ddd}.paper{fill:#fff}"
    "@media(prefers-color-scheme:dark){text{fill:#ddd}.dim{fill:#aaa}.axis{stroke:#444}.paper{fill:#16191b}}"
)


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """A span as it was exported; times in microseconds since 1970."""

    service: str
    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str = ""
    links: list[str] = []
    begun_us: int
    ended_us: int
    failed: bool = False
    attributes: dict[str, Any] = {}


def draw(spans: Sequence[Span], title: str) -> str:
    """The picture, as SVG."""
    rows = list(_ordered(spans, ""))
    begun_us = min(span.begun_us for span in spans)
    length_us = max(span.ended_us for span in spans) - begun_us
    scale = (_WIDTH - _LEFT - _RIGHT) / length_us
    services = sorted({span.service for span in spans})
    colours = dict(zip(services, _COLOURS, strict=False))
    height = _TOP + _ROW * len(rows) + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{_WIDTH}" height="{height}" rx="6"/>',
        f'<text class="head" x="10" y="20">{escape(title)}</text>',
        *_legend(colours),
        *_axis(length_us, scale, height),
    ]
    for number, (depth, span) in enumerate(rows):
        y = _TOP + _ROW * number
        x = _LEFT + (span.begun_us - begun_us) * scale
        width = max(2.0, (span.ended_us - span.begun_us) * scale)
        colour = _FAILED if span.failed else colours[span.service]
        parts += [
            f'<text x="{10 + 14 * depth}" y="{y + 15}">{escape(_label(span))}</text>',
            f'<rect x="{x:.1f}" y="{y + 4}" width="{width:.1f}" height="{_ROW - 9}" rx="2" fill="{colour}"/>',
            f'<text class="dim" x="{x + width + 5:.1f}" y="{y + 15}">{_told(span)}</text>',
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _ordered(spans: Sequence[Span], parent: str, depth: int = 0) -> Iterator[tuple[int, Span]]:
    """Depth first, by time; a span whose parent was not exported (the client's) is a root."""
    known = {span.span_id for span in spans}
    for span in sorted(spans, key=lambda span: span.begun_us):
        if span.parent_id == parent or (not parent and span.parent_id not in known):
            yield depth, span
            yield from _ordered(spans, span.span_id, depth + 1)


def _label(span: Span) -> str:
    peer = span.attributes.get("tally.peer")
    return f"{span.service}: {span.name}{f' → {peer}' if peer else ''}"


def _told(span: Span) -> str:
    said = [f"{(span.ended_us - span.begun_us) / 1000:.1f} ms"]
    shown = ("tally.reason", "tally.outcome", "http.response.status_code")
    said += [str(span.attributes[name]) for name in shown if name in span.attributes]
    return escape(" · ".join(said))


def _legend(colours: dict[str, str]) -> Iterator[str]:
    for number, (service, colour) in enumerate(colours.items()):
        x = _LEFT + 110 * number
        yield f'<rect x="{x}" y="28" width="10" height="10" fill="{colour}"/><text x="{x + 15}" y="37">{service}</text>'


def _axis(length_us: int, scale: float, height: int) -> Iterator[str]:
    step_us = next(step for step in (500, 1000, 2000, 5000, 10_000, 50_000, 10**9) if length_us / step <= 10)
    for at_us in range(0, length_us + 1, step_us):
        x = _LEFT + at_us * scale
        yield f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - 24}"/>'
        yield f'<text class="dim" x="{x:.1f}" y="{height - 8}" text-anchor="middle">{at_us / 1000:g} ms</text>'
