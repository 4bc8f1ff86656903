"""What the benchmark asks of a load process and what that answers, as one line of JSON each way.

A slot is a few seconds of one kind of work at one number of clients. Each client is a closed loop: its next
operation starts when its last has been answered.
"""

import sys
import time
from array import array
from collections import Counter
from collections.abc import Callable
from typing import Literal

import msgspec

Work = Literal["create", "prepare", "read"]

# What is still unanswered this long after a slot's end is counted as an error, and the slot ends.
ANSWER_MAX_S = 10.0


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """`first` numbers the first operation (see workload.py); `count` may end a slot before its seconds do. A client
    that is shed (503) goes on after `pause_s`, or up to as long again; with a pause, clients begin within one, too,
    and not all at once."""

    work: Work
    clients: int
    first: int
    seconds: float
    count: int | None = None
    pause_s: float = 0.0
    port: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`taken` operations began, `done` succeeded; `errors` counts the others by kind."""

    taken: int
    done: int
    elapsed_s: float
    p50_s: float
    p99_s: float
    errors: dict[str, int]


class Clock:
    """The bookkeeping of one running slot, shared by its clients."""

    def __init__(self, slot: Slot, now: Callable[[], float] = time.perf_counter) -> None:
        self.now = now
        self._taken = 0
        self._first = slot.first
        self._count = slot.count if slot.count is not None else sys.maxsize
        self._begun = now()
        self._until = self._begun + slot.seconds
        self._latencies_s = array("d")
        self._errors: Counter[str] = Counter()

    def take(self) -> int | None:
        """The number of the next operation, None when the slot is over."""
        if self._taken >= self._count or self.now() >= self._until:
            return None
        self._taken += 1
        return self._first + self._taken - 1

    def succeeded(self, begun: float) -> None:
        self._latencies_s.append(self.now() - begun)

    def failed(self, kind: str) -> None:
        self._errors[kind] += 1

    def result(self) -> Result:
        elapsed_s = self.now() - self._begun
        ordered = sorted(self._latencies_s)
        unanswered = self._taken - len(ordered) - self._errors.total()
        if unanswered:
            self._errors["unanswered"] += unanswered
        return Result(
            taken=self._taken,
            done=len(ordered),
            elapsed_s=elapsed_s,
            p50_s=quantile(ordered, 0.50),
            p99_s=quantile(ordered, 0.99),
            errors=dict(self._errors),
        )


def quantile(ordered: list[float], q: float) -> float:
    """The nearest-rank quantile of ordered values; 0 of none."""
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else 0.0


def serve(run: Callable[[Slot], Result]) -> None:
    """The load process's main loop: a slot from each line of input, its result to the output."""
    decoder = msgspec.json.Decoder(Slot)
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(run(decoder.decode(line))) + b"\n")
        sys.stdout.buffer.flush()
