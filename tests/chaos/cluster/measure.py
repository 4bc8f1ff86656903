"""What a history says about time: how much was done, how long it took, and what each fault cost. Pure.

A request counts where it began. It is *answered* if the answer says what became of it: 2xx, or a refusal for a reason
of its own (404, 409). 503 and 504 say that somebody was out of reach, and a lost connection says nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from tests.chaos.history import History, Request, Trouble
from tests.chaos.lives import WRITES
from tests.chaos.report import under_load

BIN_S = 5.0


class End(StrEnum):
    """What became of a request, as its client sees it, from good to bad."""

    DONE = "done"
    REFUSED = "refused for a reason"
    UNAVAILABLE = "503: not now"
    UNKNOWN = "504: unknown"
    NO_ANSWER = "no answer"


ANSWERED = (End.DONE, End.REFUSED)


def end_of(request: Request) -> End:
    end = request.end
    if end is None or end.trouble is not None:
        return End.NO_ANSWER
    assert end.status is not None
    if end.status < 300:
        return End.DONE
    if end.status == 504:
        return End.UNKNOWN
    return End.REFUSED if end.status < 500 else End.UNAVAILABLE


def took_ms(request: Request) -> float | None:
    """None for one that was not answered."""
    if request.end is None or request.end.trouble is not None:
        return None
    return (request.end.at_ns - request.start.at_ns) / 1e6


def quantile(values: Iterable[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else None


@dataclass(frozen=True, slots=True)
class Crowd:
    """Some requests, counted."""

    requests: Sequence[Request]

    @property
    def ends(self) -> Counter[End]:
        return Counter(end_of(request) for request in self.requests)

    @property
    def writes(self) -> Crowd:
        return Crowd([request for request in self.requests if request.start.kind in WRITES])

    @property
    def reads(self) -> Crowd:
        return Crowd([request for request in self.requests if request.start.kind not in WRITES])

    @property
    def available(self) -> float | None:
        """The share that was answered; None for nobody."""
        ends = self.ends
        return sum(ends[end] for end in ANSWERED) / ends.total() if self.requests else None

    @property
    def whole(self) -> float | None:
        """Of lists that were answered, the share in which nobody was missing."""
        lists = [r.end for r in self.requests if r.end is not None and r.end.shown is not None]
        return sum(end.complete for end in lists) / len(lists) if lists else None

    @property
    def lost(self) -> int:
        """Connections that broke, or were refused."""
        return sum(r.end is not None and r.end.trouble in (Trouble.LOST, Trouble.UNSENT) for r in self.requests)

    def latency_ms(self, share: float) -> float | None:
        return quantile((ms for ms in map(took_ms, self.requests) if ms is not None), share)


@dataclass(frozen=True, slots=True)
class Bin:
    """`BIN_S` of the load, from its beginning on."""

    from_s: float
    crowd: Crowd


@dataclass(slots=True)
class Strike:
    """A fault, once: in seconds of the load, with what was asked while it lasted."""

    name: str
    from_s: float
    to_s: float
    crowd: Crowd
    targets: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Measured:
    """A run's load."""

    seconds: float
    all: Crowd
    calm: Crowd
    bins: Sequence[Bin]
    strikes: Sequence[Strike]


def measured(history: History) -> Measured:
    requests = under_load(history)
    if not requests:
        return Measured(0.0, Crowd([]), Crowd([]), [], [])
    begin_ns, last_ns = requests[0].start.at_ns, requests[-1].start.at_ns
    strikes = _strikes(history, requests, begin_ns)
    calm = [r for r in requests if not any(_within(r, strike, begin_ns) for strike in strikes)]
    return Measured((last_ns - begin_ns) / 1e9, Crowd(requests), Crowd(calm), _bins(requests, begin_ns), strikes)


def _bins(requests: Sequence[Request], begin_ns: int) -> list[Bin]:
    found: dict[int, list[Request]] = defaultdict(list)
    for request in requests:
        found[int((request.start.at_ns - begin_ns) / 1e9 / BIN_S)].append(request)
    return [Bin(number * BIN_S, Crowd(found[number])) for number in range(max(found) + 1)]


def _strikes(history: History, requests: Sequence[Request], begin_ns: int) -> list[Strike]:
    """One for each beginning: what several services share in was recorded once for each."""
    strikes: dict[tuple[str, int], Strike] = {}
    for fault, healed in history.faults:
        from_s = (fault.at_ns - begin_ns) / 1e9
        to_s = from_s if healed is None else (healed.at_ns - begin_ns) / 1e9
        same = next((s for s in strikes.values() if s.name == fault.fault and s.from_s <= from_s < s.to_s), None)
        if same is None:
            same = strikes[fault.fault, fault.at_ns] = Strike(fault.fault, from_s, to_s, Crowd([]))
        same.targets.append(fault.target)
        same.to_s = max(same.to_s, to_s)
    for strike in strikes.values():
        strike.crowd = Crowd([request for request in requests if _within(request, strike, begin_ns)])
    return sorted(strikes.values(), key=lambda strike: strike.from_s)


def _within(request: Request, strike: Strike, begin_ns: int) -> bool:
    return strike.from_s <= (request.start.at_ns - begin_ns) / 1e9 < strike.to_s
