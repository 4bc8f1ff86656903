"""What the part about events came to: latencies, medians over the rounds, and whether its promise is kept. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Literal

import msgspec

from tests.bench.slots import quantile

Way = Literal["outbox", "wal"]
Work = Literal["backlog", "steady"]
WAYS: tuple[Way, ...] = ("outbox", "wal")

# Whose processor time is the cost of publishing; what else is measured explains it.
OWNER, ITS_DATABASE, BROKER = "author", "its database", "nats"
PUBLISHING = (OWNER, ITS_DATABASE, BROKER)


class Relayed(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of one way. The latencies are from an event's commit to its place in the stream; `cpu_us` is for each
    event; `other_cores` is how many cores other programs kept busy meanwhile."""

    way: Way
    work: Work
    round: int
    events: int
    elapsed_s: float
    p50_s: float
    p99_s: float
    cpu_us: dict[str, float]
    other_cores: float | None
    wrong: list[str]

    @property
    def per_second(self) -> float:
        return self.events / self.elapsed_s


class RelayFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One way at one work: medians over its rounds."""

    way: Way
    work: Work
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    publishing_us: float


class Mailed(msgspec.Struct, frozen=True, kw_only=True):
    """How it went with the mails: `asked` creates were begun, the last of them `behind_s` after its time at worst;
    `created` succeeded, and `mailed` of these were seen to have a mail. The waits are from answer to acceptance.
    `cpu_us` is each process's time for each create, from the first create to the last mail."""

    rate: float
    asked: int
    created: int
    errors: dict[str, int]
    behind_s: float
    mailed: int
    p50_s: float
    p99_s: float
    longest_s: float
    limit_s: float
    cpu_us: dict[str, float]

    @property
    def missing(self) -> int:
        return self.created - self.mailed

    @property
    def kept(self) -> bool:
        """Whether the promise is kept: no mail is missing, and 99 of 100 come in time."""
        return 0 < self.created == self.mailed and not self.errors and self.p99_s <= self.limit_s


def latencies(committed: Mapping[str, float], stored: Sequence[tuple[str, float]]) -> tuple[list[float], list[str]]:
    """How long each event took from its commit to the stream, in order of length, and what is not as it must be.

    A relay may be told of a commit a moment before the client is: that is no time at all.
    """
    times = Counter(subject for subject, _ in stored if subject in committed)
    waits = sorted(max(0.0, at - committed[subject]) for subject, at in stored if subject in committed)
    wrong = []
    if missing := len(committed) - len(times):
        wrong.append(f"{missing} of {len(committed)} events are not in the stream")
    if twice := times.total() - len(times):
        wrong.append(f"{twice} events are in the stream more than once")
    return waits, wrong


def mail_waits(answered: Mapping[str, float], accepted: Mapping[str, float]) -> list[float]:
    """From each create's answer to its mail's acceptance, in order of length; without what has no mail."""
    return sorted(max(0.0, accepted[op] - at) for op, at in answered.items() if op in accepted)


def quantiles(ordered: list[float]) -> tuple[float, float]:
    return quantile(ordered, 0.50), quantile(ordered, 0.99)


def by_group(tree_s: Mapping[str, float]) -> dict[str, float]:
    """The seconds of processes that are named `group#number`, by group."""
    groups: dict[str, float] = {}
    for name, seconds in tree_s.items():
        group = name.partition("#")[0]
        groups[group] = groups.get(group, 0.0) + seconds
    return groups


def summarise(samples: Iterable[Relayed]) -> list[RelayFigures]:
    """In the order of the first round."""
    groups: dict[tuple[Work, Way], list[Relayed]] = {}
    for sample in samples:
        groups.setdefault((sample.work, sample.way), []).append(sample)
    return [_figures(group) for group in groups.values()]


def _figures(group: Sequence[Relayed]) -> RelayFigures:
    first = group[0]
    return RelayFigures(
        way=first.way,
        work=first.work,
        per_second=median(sample.per_second for sample in group),
        p50_ms=median(1e3 * sample.p50_s for sample in group),
        p99_ms=median(1e3 * sample.p99_s for sample in group),
        cpu_us={name: median(sample.cpu_us[name] for sample in group) for name in first.cpu_us},
        publishing_us=median(publishing_us(sample) for sample in group),
    )


def publishing_us(sample: Relayed) -> float:
    """What publishing one event cost the owner's process, its database and the broker together."""
    return sum(sample.cpu_us.get(name, 0.0) for name in PUBLISHING)
