"""Stacks whose databases are restored, and services that wait for somebody."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from tally.local.ask import not_ready
from tally.local.services import SERVICES
from tally.local.stack import LocalStack, free_ports
from tests.integration.statements.stage import until
from tests.support.folders import scratch_folder

READY_S = 120.0

#: What a restore is about; mail has no part in it.
NAMES = ("nats", "author", "conference", "gateway", "directory")
PROGRAMS = tuple(program for program in SERVICES if program.name in NAMES)


@contextmanager
def running(**env: str) -> Iterator[LocalStack]:
    """A stack, with more in its environment."""
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally",
            programs=PROGRAMS,
            ports=free_ports(PROGRAMS),
            env=env,
            supervise=False,
            durable=False,
        ) as stack,
    ):
        yield stack


@contextmanager
def starting(stack: LocalStack, service: str, waits_for: str) -> Iterator[None]:
    """The service starts, and says that it waits for somebody; after the block it is ready."""
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(stack.start_service, service, timeout_s=READY_S)
        until(lambda: re.search(waits_for, _why_not_ready(stack, service)) is not None, waits_for, READY_S)
        yield
        started.result()


def _why_not_ready(stack: LocalStack, service: str) -> str:
    [program] = [program for program in PROGRAMS if program.name == service]
    return not_ready(program, stack.places[service]) or ""
