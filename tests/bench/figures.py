"""What a run came to: medians over the rounds, and whether Tally keeps its promises. Pure."""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Literal

import msgspec

from tests.bench.rounds import Level, Sample

# What isn't a candidate's own service: the server it keeps its rows in, and what makes the load.
NOT_SERVICES = frozenset({"postgres", "client", "load"})


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate at one level: medians over its rounds, and all its errors and disagreements."""

    candidate: str
    level: Level
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    services_cpu_us: float
    other_cores: float | None
    errors: dict[str, int]
    wrong: list[str]


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A promise about Tally: what `measured` says of it, divided by what it says of `over`, if given."""

    name: str
    level: Level
    measured: Callable[[Sample], float]
    over: str | None = None
    sense: Literal["≥", "≤"]
    limit: float
    unit: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """`value` is that of the medians, `lowest` and `highest` of single rounds; None is "not measured"."""

    name: str
    promise: str
    unit: str
    value: float | None = None
    lowest: float | None = None
    highest: float | None = None
    reached: bool | None = None


def per_second(sample: Sample) -> float:
    return sample.result.done / sample.result.elapsed_s


def p50_ms(sample: Sample) -> float:
    return 1e3 * sample.result.p50_s


def services_cpu_us(sample: Sample) -> float:
    """Of all the candidate's services together."""
    return sum(used for name, used in sample.cpu_us.items() if name not in NOT_SERVICES)


MANY_CREATES, ONE_CREATE, MANY_READS = Level("create", 64), Level("create", 1), Level("read", 64)
TARGETS = (
    Target(
        name="creates per second at 64 clients, (d) / (c)",
        level=MANY_CREATES, measured=per_second, over="c", sense="≥", limit=5, unit="x",
    ),
    Target(
        name="creates per second at 64 clients, (d) / (a)",
        level=MANY_CREATES, measured=per_second, over="a", sense="≥", limit=1.5, unit="x",
    ),
    Target(
        name="median latency of a create at 1 client, (d) / (a)",
        level=ONE_CREATE, measured=p50_ms, over="a", sense="≤", limit=2.5, unit="x",
    ),
    Target(
        name="reads per second at 64 clients, (d) / (c)",
        level=MANY_READS, measured=per_second, over="c", sense="≥", limit=3, unit="x",
    ),
    Target(
        name="processor time of all Tally processes per create at 64 clients",
        level=MANY_CREATES, measured=services_cpu_us, sense="≤", limit=400, unit="µs",
    ),
    Target(
        name="creates per second at 64 clients, (d) / (e): the resilience layer",
        level=MANY_CREATES, measured=per_second, over="e", sense="≥", limit=0.9, unit="x",
    ),
)  # fmt: skip


def summarise(samples: Sequence[Sample]) -> list[Figures]:
    """In the order of the first round."""
    groups: dict[tuple[Level, str], list[Sample]] = {}
    for sample in samples:
        groups.setdefault((sample.level, sample.candidate), []).append(sample)
    return [figures(group) for group in groups.values()]


def figures(group: Sequence[Sample]) -> Figures:
    errors: Counter[str] = Counter()
    for sample in group:
        errors.update(sample.result.errors)
    others = [sample.other_cores for sample in group if sample.other_cores is not None]
    return Figures(
        candidate=group[0].candidate,
        level=group[0].level,
        per_second=median(map(per_second, group)),
        p50_ms=median(map(p50_ms, group)),
        p99_ms=median(1e3 * sample.result.p99_s for sample in group),
        cpu_us={name: median(sample.cpu_us[name] for sample in group) for name in group[0].cpu_us},
        services_cpu_us=median(map(services_cpu_us, group)),
        other_cores=median(others) if others else None,
        errors=dict(errors),
        wrong=[wrong for sample in group for wrong in sample.wrong],
    )


def judge(target: Target, samples: Sequence[Sample]) -> Verdict:
    verdict = Verdict(name=target.name, promise=f"{target.sense} {target.limit:g}", unit=target.unit)
    ours = measured(target, "d", samples)
    theirs = measured(target, target.over, samples) if target.over else [1.0] * len(ours)
    if not ours or not theirs or not all(theirs):
        return verdict
    value = median(ours) / median(theirs)
    single = [our / their for our, their in zip(ours, theirs, strict=False)]
    reached = value >= target.limit if target.sense == "≥" else value <= target.limit
    return msgspec.structs.replace(
        verdict,
        value=value,
        lowest=min(single),
        highest=max(single),
        reached=reached and not faulty(target, samples),
    )


def measured(target: Target, candidate: str, samples: Sequence[Sample]) -> list[float]:
    """One value for each round."""
    return [
        target.measured(sample)
        for sample in samples
        if sample.candidate == candidate and sample.level == target.level and sample.result.done
    ]


def faulty(target: Target, samples: Sequence[Sample]) -> bool:
    """Whether a candidate erred at this level: no promise is kept by answering quickly and wrongly."""
    compared = [one for one in samples if one.level == target.level and one.candidate in ("d", target.over)]
    return any(one.wrong or one.result.errors for one in compared)
