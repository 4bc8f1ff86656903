"""`python -m tests.bench`: start the candidates, run the rounds, report. See `--help`."""

import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from tally.local.failure import LocalError
from tally.local.guardian import Guardian
from tests.bench import machine, profiling, report
from tests.bench.candidates import CANDIDATES, Candidate, Ground
from tests.bench.databases import DURABLE
from tests.bench.events import report as events_report
from tests.bench.events import run as events
from tests.bench.figures import TARGETS, judge, summarise
from tests.bench.processes import LoadProcess, load_process
from tests.bench.report import Report
from tests.bench.rounds import Level, Rounds
from tests.bench.slots import Work

DOCUMENT = Path("docs/performance.md")
RESULTS = Path("results")
# Not /tmp, which is in memory on many systems: there fsync costs nothing.
DISK = Path("/var/tmp")
REMOVE_MAX_S = 5.0
IN_MEMORY = ("tmpfs", "ramfs")
WORKS: tuple[Work, ...] = ("create", "read")
CLIENTS = (1, 16, 64)
PROFILED_CLIENTS = 64


@dataclass(frozen=True)
class Plan:
    """What to run. A complete plan's report goes into the documentation."""

    letters: str
    clients: tuple[int, ...]
    seconds: float
    rounds: int
    complete: bool

    @property
    def levels(self) -> list[Level]:
        return [Level(work, clients) for work in WORKS for clients in self.clients]


@click.command()
@click.option("--candidates", "letters", default="abcde", show_default=True, help="Which, and in which order.")
@click.option("--clients", multiple=True, type=click.IntRange(1, 1000), help="Repeatable. [default: 1, 16, 64]")
@click.option("--seconds", default=3.0, show_default=True, type=click.FloatRange(0.1, 600), help="Of a slot.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000))
@click.option("--quick", is_flag=True, help="Two rounds of one second: a look, not a measurement.")
@click.option("--events", "of_events", is_flag=True, help="The other part: publishing events, and mails.")
@click.option("--profile", is_flag=True, help="Profile the processes at 64 clients instead of measuring.")
@click.option("--folder", default=DISK, show_default=True, type=click.Path(path_type=Path), help="For data; on a disk.")
def main(
    letters: str,
    clients: tuple[int, ...],
    seconds: float,
    rounds: int,
    quick: bool,
    of_events: bool,
    profile: bool,
    folder: Path,
) -> None:
    """Compare Tally (d) with two inserts (a), batches of them (b) and a plain gateway (c).

    The report goes to the terminal and to results/; that of a complete run (all candidates, 1, 16 and 64
    clients, not quick) also goes to docs/performance.md. The exit status is 1 if any operation failed or a
    database disagrees with what was answered; a target that isn't reached is only reported.

    With --events: what the two ways to publish events cost, and how long a create's mail takes. Of the other options
    --quick, --rounds and --folder count; a run without --quick goes to docs/performance.md.
    """
    if not letters or set(letters) - set(CANDIDATES) or len(set(letters)) < len(letters):
        raise click.BadParameter(f"some of {''.join(CANDIDATES)}, each once", param_hint="--candidates")
    clients = clients or CLIENTS
    complete = not quick and set(letters) == set(CANDIDATES) and set(clients) >= set(CLIENTS)
    plan = Plan(letters, clients, 1.0 if quick else seconds, 2 if quick else rounds, complete)
    stop_on_signals()
    try:
        with disk_folder(folder) as here:
            if of_events:
                told = events.measured(here, events.QUICK if quick else events.Plan(rounds=rounds), click.echo)
                show_events(told, complete=not quick)
                sys.exit(1 if events_report.wrong(told) else 0)
            if profile:
                profiled(here, letters, seconds)
                return
            result = measured(here, plan)
    except LocalError as failure:
        raise click.ClickException(str(failure)) from failure
    show(result, complete)
    sys.exit(1 if any(one.errors or one.wrong for one in result.figures) else 0)


def measured(folder: Path, plan: Plan) -> Report:
    started = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    environment = machine.describe(folder)
    with started_candidates(folder, plan.letters, os.environ) as (load, candidates):
        postgres = {candidate.letter: settings(candidate) for candidate in candidates}
        run = Rounds(candidates, load, plan.seconds)
        click.echo("preparing and warming up")
        run.prepare()
        samples = list(run.run(plan.levels, plan.rounds, click.echo))
    figures = summarise(samples)
    return Report(
        started=started,
        command=" ".join(["python -m tests.bench", *sys.argv[1:]]),
        rounds=plan.rounds,
        seconds=plan.seconds,
        titles={candidate.letter: candidate.title for candidate in candidates},
        machine=environment,
        postgres=postgres,
        figures=figures,
        verdicts=[judge(target, samples) for target in TARGETS],
        warnings=report.warnings(figures, postgres),
        samples=samples,
    )


def profiled(folder: Path, letters: str, seconds: float) -> None:
    """Profiles of all Python processes to results/, their most expensive functions to the terminal."""
    profiles = RESULTS / f"profile-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    profiles.mkdir(parents=True)
    environment = profiling.environment(profiles, os.environ)
    with started_candidates(folder, letters, environment) as (load, candidates):
        run = Rounds(candidates, load, seconds)
        run.prepare()
        for _ in run.run([Level(work, PROFILED_CLIENTS) for work in WORKS], 1, click.echo):
            pass
    profiling.show(profiles)


@contextmanager
def started_candidates(
    folder: Path, letters: str, environment: Mapping[str, str]
) -> Iterator[tuple[LoadProcess, list[Candidate]]]:
    with ExitStack() as running:
        guardian = Guardian()
        running.callback(guardian.dismiss)
        load = running.enter_context(load_process("-m", "tests.bench.load", environment=os.environ))
        candidates = []
        for letter in letters:
            click.echo(f"starting ({letter})")
            own = folder / letter
            own.mkdir()
            candidates.append(running.enter_context(CANDIDATES[letter](Ground(own, load, guardian, environment))))
        yield load, candidates


def settings(candidate: Candidate) -> dict[str, str]:
    """The settings that are compared, the same in both databases; refuses a server that isn't durable."""
    author, conference = candidate.author.settings(), candidate.conference.settings()
    if author != conference:
        raise click.ClickException(f"({candidate.letter}) has databases with different settings")
    if not author.items() >= DURABLE.items():
        raise click.ClickException(f"({candidate.letter}) runs on a PostgreSQL that isn't durable: {author}")
    return author


def show(result: Report, complete: bool) -> None:
    text = report.markdown(result)
    click.echo(f"\n{text}\n")
    path = RESULTS / f"bench-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    report.save_json(result, path)
    click.echo(f"written: {path}")
    if complete:
        DOCUMENT.write_text(report.between_markers(DOCUMENT.read_text(), text))
        click.echo(f"written: {DOCUMENT}")
    else:
        click.echo(f"{DOCUMENT} stays as it is: this was not a complete run")


def show_events(result: events_report.Report, complete: bool) -> None:
    text = events_report.markdown(result)
    click.echo(f"\n{text}\n")
    path = RESULTS / f"bench-events-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    report.save_json(result, path)
    click.echo(f"written: {path}")
    if complete:
        marked = report.between_markers(DOCUMENT.read_text(), text, events_report.BEGIN, events_report.END)
        DOCUMENT.write_text(marked)
        click.echo(f"written: {DOCUMENT}")
    else:
        click.echo(f"{DOCUMENT} stays as it is: this was not a complete run")


@contextmanager
def disk_folder(parent: Path) -> Iterator[Path]:
    """A folder for this run on a disk, which PostgreSQL's unprivileged user may enter; removed at the end."""
    kind = machine.file_system(parent)
    if kind in IN_MEMORY:
        raise click.ClickException(f"{parent} is in memory ({kind}), where fsync costs nothing: use --folder")
    folder = Path(tempfile.mkdtemp(prefix="tally-bench-", dir=parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        # An interrupted initdb leaves children that write for a moment longer.
        give_up = time.monotonic() + REMOVE_MAX_S
        while folder.exists() and time.monotonic() < give_up:
            shutil.rmtree(folder, ignore_errors=True)


def stop_on_signals() -> None:
    """Leave through every `finally`, so that nothing we started is left behind."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, frame: sys.exit(128 + number))


if __name__ == "__main__":
    main(prog_name="python -m tests.bench")
