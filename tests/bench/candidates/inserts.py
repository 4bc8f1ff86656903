"""(a) two parallel single-row inserts and (b) the same in batches: asyncpg without HTTP (inserts.py)."""

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.candidates.candidate import Candidate, Ground
from tests.bench.candidates.plain_databases import LIVE_ROWS, plain_databases
from tests.bench.processes import load_process


@contextmanager
def single(ground: Ground) -> Iterator[Candidate]:
    with inserts("a", "two inserts", "single", ground) as candidate:
        yield candidate


@contextmanager
def batched(ground: Ground) -> Iterator[Candidate]:
    with inserts("b", "two batch inserts", "batched", ground) as candidate:
        yield candidate


@contextmanager
def inserts(letter: str, title: str, way: str, ground: Ground) -> Iterator[Candidate]:
    with plain_databases(ground) as databases:
        command = ("-m", "tests.bench.inserts", way, databases.author.dsn, databases.conference.dsn)
        with load_process(*command, environment=ground.environment) as inserter:
            yield Candidate(
                letter=letter,
                title=title,
                works=frozenset({"create"}),
                author=databases.author,
                conference=databases.conference,
                live_rows=LIVE_ROWS,
                processes={"client": inserter.pid, "postgres": databases.postgres_pid},
                run=inserter.run,
            )
