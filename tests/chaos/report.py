"""A run as Markdown: what was asked and answered, what every fault cost, and the verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from tests.chaos.history import NO_USE, Fault, Healed, History, Kind, Request
from tests.chaos.lives import EVER, WRITES, Fate, fate
from tests.chaos.verdict import EXAMPLES_MAX, Verdict


def report(history: History, verdicts: Sequence[Verdict]) -> str:
    """The whole page."""
    loaded = under_load(history)
    sections = [_title(history, loaded), _outcomes(loaded), _faults(history, loaded), _verdicts(verdicts)]
    return "\n\n".join(sections) + "\n"


def under_load(history: History) -> list[Request]:
    """What was asked between the preparation and the last look."""
    began, ended = history.phase("preloaded"), history.phase("load-ended")
    from_ns = 0 if began is None else began.at_ns
    to_ns = EVER if ended is None else ended.at_ns
    return [request for request in history.requests if from_ns <= request.start.at_ns < to_ns]


def _title(history: History, requests: Sequence[Request]) -> str:
    header = history.header
    span_s = (requests[-1].start.at_ns - requests[0].start.at_ns) / 1e9 if requests else 0.0
    rate = len(requests) / span_s if span_s else 0.0
    kinds = Counter(f"{fault.fault} {fault.target}" for fault, _ in history.faults)
    stalled_ms = sum(stall.lasted_ns for stall in history.stalls) / 1e6
    return (
        f"# Chaos: {header.scenario} of {header.relationship}s, seed {header.seed}\n\n"
        f"{len(requests)} requests by {header.clients} clients in {span_s:.1f} s ({rate:.0f} per second), "
        f"{len(history.faults)} faults ({_listed(kinds)}). "
        f"The harness itself was late {len(history.stalls)} times, {stalled_ms:.0f} ms in all."
    )


def _outcomes(requests: Sequence[Request]) -> str:
    rows = []
    for kind in Kind:
        of_kind = [request for request in requests if request.start.kind is kind]
        if of_kind:
            answers = Counter(answer(request) for request in of_kind)
            rows.append(f"| {kind} | {len(of_kind)} | {_listed(answers)} | {latencies(of_kind)} |")
    return "\n".join(["| request | number | answers | p50 / p99 / max ms |", "|---|---|---|---|", *rows])


def answer(request: Request) -> str:
    end = request.end
    if end is None:
        return "none recorded"
    return str(end.trouble or (f"{end.status} {end.code}" if end.code else end.status))


def latencies(requests: Iterable[Request]) -> str:
    took = sorted((request.end.at_ns - request.start.at_ns) / 1e6 for request in requests if request.end is not None)
    if not took:
        return ""
    return " / ".join(f"{took[min(len(took) - 1, int(len(took) * share))]:.0f}" for share in (0.5, 0.99, 1.0))


def _faults(history: History, requests: Sequence[Request]) -> str:
    """Of what was begun while a fault lasted: how many writes were done, refused or unknown, how many reads whole."""
    rows = [
        "| fault | times | lasted s | works again after s "
        "| writes: done / refused / unknown / unsent | reads: whole / degraded / failed |",
        "|---|---|---|---|---|---|",
    ]
    windows: dict[str, list[tuple[int, int]]] = {}
    for fault, healed in history.faults:
        windows.setdefault(f"{fault.fault} {fault.target}", []).append(_window(fault, healed))
    calm = [request for request in requests if not any(_in(request, _window(*fault)) for fault in history.faults)]
    rows.append(f"| (none) | | | | {_writes(calm)} | {_reads(calm)} |")
    for name, spans in sorted(windows.items()):
        hit = [request for request in requests if any(_in(request, span) for span in spans)]
        lasted_s = sum(to_ns - from_ns for from_ns, to_ns in spans) / 1e9
        again = _again(history, requests, spans)
        rows.append(f"| {name} | {len(spans)} | {lasted_s:.1f} | {again} | {_writes(hit)} | {_reads(hit)} |")
    return "\n".join(rows)


def _window(fault: Fault, healed: Healed | None) -> tuple[int, int]:
    return fault.at_ns, fault.at_ns if healed is None else healed.at_ns


def _again(history: History, requests: Sequence[Request], spans: Sequence[tuple[int, int]]) -> str:
    """From a healing to the first create that was done, if nobody else was struck then: shortest and longest."""
    windows = [_window(*fault) for fault in history.faults]
    took_s = []
    for _, healed_ns in spans:
        if any(from_ns < healed_ns < to_ns for from_ns, to_ns in windows):
            continue
        until_ns = min((from_ns for from_ns, _ in windows if from_ns > healed_ns), default=EVER)
        done = (
            request.end.at_ns
            for request in requests
            if request.start.kind is Kind.CREATE
            and request.end is not None
            and fate(request.end) is Fate.DONE
            and healed_ns < request.end.at_ns < until_ns
        )
        took_s += [(at_ns - healed_ns) / 1e9 for at_ns in [min(done, default=None)] if at_ns is not None]
    return f"{min(took_s):.1f} … {max(took_s):.1f}" if took_s else ""


def _in(request: Request, span: tuple[int, int]) -> bool:
    return span[0] <= request.start.at_ns < span[1]


def _writes(requests: Iterable[Request]) -> str:
    fates = Counter(fate(request.end) for request in requests if request.start.kind in WRITES)
    total = fates.total() or 1
    return " / ".join(f"{100 * fates[one] / total:.1f} %" for one in Fate)


def _reads(requests: Iterable[Request]) -> str:
    seen = Counter(_read(request) for request in requests if request.start.kind not in WRITES | NO_USE)
    total = seen.total() or 1
    return " / ".join(f"{100 * seen[word] / total:.1f} %" for word in ("whole", "degraded", "failed"))


def _read(request: Request) -> str:
    end = request.end
    if end is None or end.status is None or end.status >= 500:
        return "failed"
    return "whole" if end.complete else "degraded"


def _verdicts(verdicts: Sequence[Verdict]) -> str:
    rows = [f"| {one.word} | {one.name} | {one.claim} | {one.checked} |" for one in verdicts]
    lines = ["| verdict | invariant | claim | checked |", "|---|---|---|---|", *rows]
    return "\n".join([*lines, *_examples(verdicts)])


def _examples(verdicts: Sequence[Verdict]) -> Iterator[str]:
    for verdict in verdicts:
        if verdict.violations:
            yield f"\n**{verdict.name}: {len(verdict.violations)} violations**\n"
            yield from (f"- {violation}" for violation in verdict.violations[:EXAMPLES_MAX])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} × {number}" for name, number in counts.most_common())
