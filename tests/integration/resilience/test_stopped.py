"""The conference service is down: what needs it is refused at once, what does not goes on, and it is found again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest

from tally.local.stack import LocalStack
from tests.integration.resilience.deployment import Deployment, deployed, median_s

CREATES = 30


@dataclass
class Down:
    """A deployment without the conference service; its write breaker was open. One attendance was made before."""

    deployment: Deployment
    author: str
    event: str
    operation: str

    async def opened(self) -> None:
        """The breaker of writes is open."""

        async def create() -> None:
            await self.deployment.create(self.event, self.author)

        await self.deployment.until_breaker("conference/write", "open", meanwhile=create)


@pytest.fixture(scope="module")
def made_before() -> Iterator[dict[str, str]]:
    """Filled by the first test: stopping and starting takes seconds, so the tests share one outage."""
    yield {}


@pytest.fixture
async def down(stack: LocalStack, made_before: dict[str, str]) -> AsyncIterator[Down]:
    async with deployed(stack) as deployment:
        if "conference" in stack.running():
            await deployment.healed()
            author, event = await deployment.author(), await deployment.event()
            operation = (await deployment.create(event, author)).body["operation"]
            made_before.update(author=author, event=event, operation=operation)
            await asyncio.to_thread(stack.stop_service, "conference")
        down = Down(deployment, **made_before)
        await down.opened()
        yield down


async def test_creates_are_refused_at_once_and_nothing_is_sent_to_the_author_service(down: Down) -> None:
    deployment, author = down.deployment, await down.deployment.author()
    await down.opened()
    received = await deployment.received("author")
    rejected, answers = [], []
    for _ in range(CREATES):
        answer = await deployment.create(down.event, author)
        answers.append(answer)
        state = (await deployment.breakers())["conference/write"]["state"]
        rejected.append(state == "open")
    refused = [answer for answer, open in zip(answers, rejected, strict=True) if open]
    assert {(answer.status, answer.code) for answer in answers} == {(503, "service-unavailable")}
    assert all(answer.body["service"] == "conference" for answer in answers)
    assert all(1 <= int(answer.headers["Retry-After"]) <= 40 for answer in refused)
    assert len(refused) > CREATES / 2
    assert median_s(refused) <= 0.05
    # A probe is a create of its own, which the author service may see: one per open time at most.
    probes = await deployment.metric("gateway", "tally_breaker_transitions_total", peer="conference", kind="write")
    assert await deployment.received("author") - received <= 4 * probes
    assert await deployment.live("author", "author", author) == set()


async def test_reads_degrade_and_say_who_is_missing_since_when_and_a_strict_one_is_refused(down: Down) -> None:
    deployment = down.deployment
    read = await deployment.ask("gateway", "GET", f"/author/{down.author}/attendance")
    assert read.status == 200
    assert read.body["author"]["id"] == down.author
    assert read.body["complete"] is False
    assert [item["id"] for item in read.body["events"]] == [down.event]
    assert [item["operation"] for item in read.body["events"]] == [down.operation]
    (missing,) = read.body["degraded"]
    assert missing["service"] == "conference"
    assert missing["reason"]
    assert missing["since"].startswith("20")
    other = await deployment.attendees(down.event)
    assert (other.status, other.body["complete"], other.body["event"]) == (200, False, {"id": down.event})
    assert [item["id"] for item in other.body["attendees"]] == [down.author]
    strict = await deployment.attendees(down.event, Prefer="handling=strict")
    assert (strict.status, strict.code, strict.body["service"]) == (503, "service-unavailable", "conference")
    assert await deployment.metric("gateway", "tally_degraded_reads_total", peer="conference") >= 2


async def test_the_author_services_own_api_is_unaffected(down: Down) -> None:
    author = await down.deployment.author()
    renamed = await down.deployment.ask("author", "PATCH", f"/author/{author}", {"full_name": "Ada"})
    assert renamed.status == 200
    assert (await down.deployment.ask("author", "GET", f"/author/{author}")).body["full_name"] == "Ada"
    assert (await down.deployment.ask("author", "GET", "/readyz", admin=True)).status == 200
    assert (await down.deployment.ask("gateway", "GET", "/readyz", admin=True)).status == 200


async def test_an_operation_of_before_is_not_decided_by_one_half_alone(down: Down) -> None:
    told = await down.deployment.ask("gateway", "GET", f"/operation/{down.operation}")
    assert told.body["state"] == "unknown"
    assert told.body["halves"] == {"author": "live", "conference": "unreachable"}


async def test_when_it_is_back_one_probe_finds_it_within_the_open_time_and_nobody_rushes_in(down: Down) -> None:
    deployment = down.deployment
    authors = [await deployment.author() for _ in range(20)]
    await asyncio.to_thread(deployment.stack.start_service, "conference")
    failed = {"peer": "conference", "kind": "write", "from_state": "half_open", "to_state": "open"}
    probes_failed = await deployment.metric("gateway", "tally_breaker_transitions_total", **failed)
    breaker = (await deployment.breakers())["conference/write"]
    sent = await deployment.attempts("gateway", "conference")
    await asyncio.sleep((breaker["retry_after_s"] or 0.0) + 0.05)
    answers = await asyncio.gather(*(deployment.create(down.event, author) for author in authors))
    assert any(answer.status == 201 for answer in answers)
    assert {answer.code for answer in answers if answer.status != 201} <= {"service-unavailable"}
    assert await deployment.attempts("gateway", "conference") - sent <= 1.2 * len(authors) + 1
    assert (await deployment.breakers())["conference/write"]["state"] == "closed"
    assert await deployment.metric("gateway", "tally_breaker_transitions_total", **failed) == probes_failed
    assert (await deployment.operation(down.operation)) == "done"
