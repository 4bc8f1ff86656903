"""(d) Tally: the stack that `make run` starts, on ports and in a folder of its own, with default settings."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tally.local.stack import LocalStack, free_ports
from tests.bench import bare
from tests.bench.candidates.candidate import Candidate, Ground
from tests.bench.databases import Database, load_entities
from tests.support.stacks import CORE

LIVE_ROWS = "SELECT count(*) FROM attendance_half WHERE st = 'L'"
# As the other candidates, and as in production: no line for a request that went well.
ENVIRONMENT = {"TALLY_ACCESS_LOG": "errors", "TALLY_LOG_FORMAT": "json"}


@contextmanager
def tally_stack(ground: Ground) -> Iterator[Candidate]:
    with _stack(ground, ground.environment, "d", "Tally") as candidate:
        yield candidate


@contextmanager
def bare_stack(ground: Ground) -> Iterator[Candidate]:
    """(e) The same without the resilience layer: what the layer costs is (d) beside it."""
    with _stack(ground, bare.environment(ground.environment), "e", "Tally, bare") as candidate:
        yield candidate


@contextmanager
def _stack(ground: Ground, environment: Mapping[str, str], letter: str, title: str) -> Iterator[Candidate]:
    stack = LocalStack(
        ground.folder,
        programs=CORE,
        ports=free_ports(CORE),
        env={**environment, **ENVIRONMENT},
        supervise=False,  # Who dies is to be seen in the figures.
        durable=True,
    )
    with stack:
        author, conference = Database(stack.dsn("author")), Database(stack.dsn("conference"))
        load_entities(author, conference)
        yield Candidate(
            letter=letter,
            title=title,
            works=frozenset({"create", "read"}),
            author=author,
            conference=conference,
            live_rows=LIVE_ROWS,
            processes={name: stack.process(name) for name in stack.names},
            run=ground.load.at(stack.places["gateway"].port),
        )
