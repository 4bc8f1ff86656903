"""`python -m tests.bench.hedges`: whether a second copy of a slow read pays, and what it costs where none is slow.

Two stacks as `make run` starts them (the relationship's three services), one with `TALLY_HEDGED_READS=on`; they take
turns. Two conditions: as it is, and with a tail that only a second copy can cut, because it strikes single calls and
not the peer: 3 in 100 of the conference service's lists are `TAIL_MS` late, by its fault switch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final

import click
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from tally.local.ask import ask
from tally.local.operator import Operator
from tally.local.stack import LocalStack, free_ports
from tests.bench import machine, workload
from tests.bench.__main__ import DISK, DOCUMENT, disk_folder, stop_on_signals
from tests.bench.candidates.tally_stack import ENVIRONMENT
from tests.bench.databases import Database, load_entities
from tests.bench.processes import LoadProcess, load_process
from tests.bench.report import between_markers, table
from tests.bench.slots import Result, Slot, Work
from tests.support.stacks import CORE

BEGIN, END = "<!-- hedges:begin -->", "<!-- hedges:end -->"
TAIL_MS, TAIL_RATE = 100, 0.03
CLIENTS = (1, 16, 64)
PREPARE_MAX_S = 120.0
WAYS: Final = ("off", "on")
CONDITIONS: Final = ("as it is", "with a tail")
LISTS: Final = "/internal/attendance/list"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One slot; `hedges` is second copies per call that could have one."""

    condition: str
    clients: int
    way: str
    result: Result
    hedges: float


@dataclass(frozen=True)
class Side:
    """One of the two stacks."""

    stack: LocalStack
    load: LoadProcess

    def run(self, work: Work, clients: int, seconds: float, count: int | None = None) -> Result:
        port = self.stack.places["gateway"].port
        slot = Slot(work=work, clients=clients, first=0, seconds=seconds, count=count, port=port)
        result = self.load.run(slot)
        if result.errors:
            raise click.ClickException(f"{work} at {clients} clients failed: {result.errors}")
        return result

    def tail(self, on: bool) -> None:
        fault = {"kind": "latency", "latency_ms": TAIL_MS, "rate": TAIL_RATE, "path": LISTS, "expires_s": 600}
        Operator(self.stack.places, self.stack.folder).set_faults("conference", [fault] if on else [])

    def counted(self) -> tuple[float, float]:
        """Second copies, and attempts of reads with them."""
        text = ask("GET", f"{self.stack.admin_urls['gateway']}/metrics").body
        samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
        hedges = sum(one.value for one in samples if one.name == "tally_hedges_total")
        counts = (one for one in samples if one.name == "http_client_request_duration_seconds_count")
        return hedges, sum(one.value for one in counts if one.labels["kind"] == "read")


@contextmanager
def side(folder: Path, load: LoadProcess, way: str) -> Iterator[Side]:
    environment = {**ENVIRONMENT, "TALLY_HEDGED_READS": way, "TALLY_FAULTS": "on"}
    stack = LocalStack(folder, programs=CORE, ports=free_ports(CORE), env=environment, supervise=False)
    with stack:
        load_entities(Database(stack.dsn("author")), Database(stack.dsn("conference")))
        here = Side(stack, load)
        here.run("prepare", 16, PREPARE_MAX_S, workload.LISTED_PAIRS)
        for clients in CLIENTS:
            here.run("read", clients, 1.0)  # warm-up
        yield here


def measured(folder: Path, rounds: int, seconds: float) -> list[Sample]:
    samples = []
    with ExitStack() as running:
        load = running.enter_context(load_process("-m", "tests.bench.load", environment=os.environ))
        sides = {way: running.enter_context(side(folder / way, load, way)) for way in WAYS}
        for number, condition in product(range(rounds), CONDITIONS):
            for one in sides.values():
                one.tail(condition != CONDITIONS[0])
            for clients, way in product(CLIENTS, WAYS):
                samples.append(sample(sides[way], condition, clients, way, seconds))
                click.echo(f"round {number + 1}: {line(samples[-1])}")
    return samples


def sample(here: Side, condition: str, clients: int, way: str, seconds: float) -> Sample:
    hedges, attempts = here.counted()
    result = here.run("read", clients, seconds)
    hedges_after, attempts_after = here.counted()
    more = hedges_after - hedges
    calls = attempts_after - attempts - more
    return Sample(condition=condition, clients=clients, way=way, result=result, hedges=more / max(calls, 1.0))


def line(one: Sample) -> str:
    result = one.result
    return (
        f"{one.condition:12} {one.clients:3} clients, hedges {one.way:3} {result.done / result.elapsed_s:7,.0f}/s  "
        f"p50 {1e3 * result.p50_s:6.2f} ms  p99 {1e3 * result.p99_s:6.2f} ms  {one.hedges:.1%} hedged"
    )


def markdown(samples: Sequence[Sample], where: dict[str, str], rounds: int, seconds: float) -> str:
    rows = []
    for condition, clients, way in product(CONDITIONS, CLIENTS, WAYS):
        of = [one for one in samples if (one.condition, one.clients, one.way) == (condition, clients, way)]
        rows.append(
            [
                f"{condition}, {clients}",
                way,
                f"{median(one.result.done / one.result.elapsed_s for one in of):,.0f}",
                f"{1e3 * median(one.result.p50_s for one in of):.2f}",
                f"{1e3 * median(one.result.p99_s for one in of):.2f}",
                f"{median(one.hedges for one in of):.1%}",
            ]
        )
    when = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    said = f"{when}, `python -m tests.bench.hedges`: {rounds} rounds, {seconds:g} s per slot; medians over the rounds."
    heading = ("condition, clients", "hedged reads", "per second", "p50 ms", "p99 ms", "calls sent twice")
    machine_lines = "\n".join(f"- {name}: {value}" for name, value in where.items())
    return f"{said}\n\n{machine_lines}\n\n{table(heading, rows)}"


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 100))
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0.1, 60), help="Of a slot.")
@click.option("--folder", default=DISK, show_default=True, type=click.Path(path_type=Path), help="For data; on a disk.")
@click.option("--look", is_flag=True, help="Write nothing.")
def main(rounds: int, seconds: float, folder: Path, look: bool) -> None:
    """Measure hedged reads, and write the result to docs/performance.md."""
    stop_on_signals()
    with disk_folder(folder) as here:
        where = machine.describe(here)
        text = markdown(measured(here, rounds, seconds), where, rounds, seconds)
    click.echo(f"\n{text}\n")
    if not look:
        DOCUMENT.write_text(between_markers(DOCUMENT.read_text(), text, BEGIN, END))
        click.echo(f"written: {DOCUMENT}")


if __name__ == "__main__":
    sys.exit(main())
