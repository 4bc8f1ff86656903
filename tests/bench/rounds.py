"""Who runs when: in each round every level of load, and in each level the candidates one after the other.

Interleaving puts the machine's moods on all candidates alike. After each slot both databases are asked
whether they grew by what was answered.
"""

from collections.abc import Callable, Iterator, Sequence

import msgspec

from tests.bench import measure, workload
from tests.bench.candidates import Candidate
from tests.bench.processes import LoadProcess
from tests.bench.slots import Result, Slot, Work

PREPARE_MAX_S = 120.0


class Level(msgspec.Struct, frozen=True):
    work: Work
    clients: int


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One slot of one candidate; `other_cores` is how many cores other programs kept busy meanwhile."""

    candidate: str
    level: Level
    round: int
    result: Result
    cpu_us: dict[str, float]
    other_cores: float | None
    wrong: list[str]

    @property
    def per_second(self) -> float:
        return self.result.done / self.result.elapsed_s


class Rounds:
    """Runs slots on started candidates, and never one pair twice on one of them."""

    def __init__(self, candidates: Sequence[Candidate], load: LoadProcess, seconds: float) -> None:
        self._candidates = candidates
        self._load = load
        self._seconds = seconds
        self._next_pair = dict.fromkeys((one.letter for one in candidates), 0)

    def prepare(self) -> None:
        """The attendances that will be listed, by each candidate itself; then a warm-up."""
        for candidate in self._candidates:
            listed = Slot(work="prepare", clients=16, first=0, seconds=PREPARE_MAX_S, count=workload.LISTED_PAIRS)
            result = candidate.run(listed)
            if result.done != workload.LISTED_PAIRS:
                raise RuntimeError(f"({candidate.letter}) could not be prepared: {result}")
            for work in sorted(candidate.works):
                self._run(candidate, Level(work, 16), 1.0)

    def run(self, levels: Sequence[Level], rounds: int, tell: Callable[[str], None]) -> Iterator[Sample]:
        for number in range(1, rounds + 1):
            for level in levels:
                for candidate in self._candidates:
                    if level.work in candidate.works:
                        sample = self.sample(candidate, level, number)
                        tell(f"round {number}: {line(sample)}")
                        yield sample

    def sample(self, candidate: Candidate, level: Level, number: int) -> Sample:
        roots = {**candidate.processes, "load": self._load.pid}
        rows_before = candidate.rows()
        before = measure.used(roots)
        result = self._run(candidate, level, self._seconds)
        after = measure.used(roots)
        rows_after = candidate.rows()
        used = after.since(before) if before and after else None
        return Sample(
            candidate=candidate.letter,
            level=level,
            round=number,
            result=result,
            cpu_us={name: 1e6 * s / max(result.done, 1) for name, s in used.tree_s.items()} if used else {},
            other_cores=used.others_s / result.elapsed_s if used and result.done else None,
            wrong=list(disagreements(level.work, result, rows_before, rows_after)),
        )

    def _run(self, candidate: Candidate, level: Level, seconds: float) -> Result:
        first = self._next_pair[candidate.letter]
        result = candidate.run(Slot(work=level.work, clients=level.clients, first=first, seconds=seconds))
        if level.work == "create":
            self._next_pair[candidate.letter] += result.taken
        return result


def disagreements(work: Work, result: Result, before: tuple[int, int], after: tuple[int, int]) -> Iterator[str]:
    """What is not as it must be: a success is a row on both sides, a failure may be one or not."""
    least = result.done if work == "create" else 0
    most = result.taken if work == "create" else 0
    for side, was, now in zip(("author", "conference"), before, after, strict=True):
        if not least <= now - was <= most:
            yield f"{side} database grew by {now - was} rows where {result.done} operations succeeded"


def line(sample: Sample) -> str:
    """One slot as a line of progress."""
    result = sample.result
    text = (
        f"({sample.candidate}) {sample.level.work:6} {sample.level.clients:3} clients "
        f"{sample.per_second:8,.0f}/s  p50 {1e3 * result.p50_s:6.2f} ms  p99 {1e3 * result.p99_s:6.2f} ms"
    )
    return "  ".join([text, *(f"{kind}, {count} times" for kind, count in result.errors.items()), *sample.wrong])
