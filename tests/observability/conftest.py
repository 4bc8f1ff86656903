"""One deployment, watched while it works: what it says of itself before and after, and Prometheus if there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tally.local.ask import ask
from tally.local.prometheus import PROMETHEUS, found
from tally.local.services import SERVICES
from tally.local.stack import LocalStack, free_ports
from tests.integration.resilience.deployment import deployed
from tests.integration.statements.test_tls import self_signed
from tests.observability.prometheus import watched
from tests.observability.receiver import Receiver, receiving
from tests.observability.workload import work
from tests.support.folders import scratch_folder

#: Nine processes on a machine that has other things to do.
START_S = 150.0


@dataclass(frozen=True, slots=True)
class Series:
    """One series as Prometheus would store it; `kind` is that of its family."""

    name: str
    labels: Mapping[str, str]
    kind: str


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen of a deployment; `prometheus` is the address of one that saw all of it, if the machine has one;
    `spans` is where spans are exported to.
    """

    before: list[Series]
    after: list[Series]
    began_s: float
    ended_s: float
    prometheus: str | None
    spans: Receiver


@pytest.fixture(scope="package")
def observed() -> Iterator[Observed]:
    programs, scraping = (
        ((*SERVICES, PROMETHEUS), {f"{PROMETHEUS.variable}INTERVAL": "1s"}) if found() else (SERVICES, {})
    )
    with receiving() as spans, scratch_folder() as folder:
        cert_file, key_file = self_signed(folder)
        env = {
            **scraping,
            "TALLY_FAULTS": "on",
            "OTEL_EXPORTER_OTLP_ENDPOINT": spans.endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "200",
            # So that what exists only then is there, too.
            "TALLY_LOCAL_CONFERENCE_RELAY": "wal",
            "TALLY_LOCAL_NOTIFIER_TLS_CERT_FILE": str(cert_file),
            "TALLY_LOCAL_NOTIFIER_TLS_KEY_FILE": str(key_file),
        }
        stack = LocalStack(
            folder / ".tally", programs=programs, ports=free_ports(programs), env=env, supervise=False, durable=False
        )
        try:
            stack.start(timeout_s=START_S)
            prometheus = stack.urls.get(PROMETHEUS.name)
            jobs = [program.name for program in stack.programs if program.settings]
            if prometheus is not None:
                watched(prometheus, jobs)
            before, began_s = scraped(stack), time.time()
            asyncio.run(_worked(stack))
            if prometheus is not None:
                watched(prometheus, jobs)
            after, ended_s = scraped(stack), time.time()
            yield Observed(before, after, began_s, ended_s, prometheus, spans)
        finally:
            stack.stop()


async def _worked(stack: LocalStack) -> None:
    async with deployed(stack) as deployment:
        await work(deployment)


def scraped(stack: LocalStack) -> list[Series]:
    """The expositions of all services, with the labels that a scraper adds."""
    found = []
    for program in (program for program in stack.programs if program.settings):
        here = stack.places[program.name]
        target = {"namespace": "local", "job": program.name, "instance": f"{here.reached_at}:{here.admin_port}"}
        answer = ask("GET", f"{here.admin_url}/metrics")
        assert answer.status == 200, answer.says()
        found.append(Series("up", target, "gauge"))
        for family in text_string_to_metric_families(answer.body):
            found += [Series(one.name, {**one.labels, **target}, family.type) for one in family.samples]
    return found
