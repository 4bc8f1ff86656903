"""The case in doubt: a side has committed and never says so. The halves agree in the end, and what was told is true."""

from __future__ import annotations

import pytest

from tests.integration.resilience.deployment import Deployment, until


@pytest.mark.parametrize("service", ["author", "conference"])
async def test_if_only_the_reply_was_lost_asking_again_tells_that_it_was_done(
    deployment: Deployment, service: str
) -> None:
    author, event = await deployment.author(), await deployment.event()
    await deployment.faults(service, {"kind": "hang", "path": "/internal/attendance/record"})
    answer = await deployment.create(event, author)
    assert await deployment.hits(service) > 0
    assert answer.status == 201, answer.body
    assert await deployment.agreed("author", author) == {answer.body["operation"]}


@pytest.mark.parametrize("service", ["author", "conference"])
async def test_if_a_side_has_committed_and_says_nothing_more_the_outcome_is_unknown_and_then_told(
    deployment: Deployment, service: str
) -> None:
    author, event = await deployment.author(), await deployment.event()
    await deployment.faults(service, {"kind": "hang", "path": "/internal/attendance/"})
    answer = await deployment.create(event, author)
    assert (answer.status, answer.code) == (504, "outcome-unknown"), answer.body
    assert answer.took_s < 2.5
    op = answer.body["operation"]
    assert await deployment.operation(op) in ("unknown", "refused")  # it does not invent an outcome
    await deployment.faults(service)
    told: list[str] = []

    async def decided() -> bool:
        told[:] = [await deployment.operation(op)]
        return told[0] in ("done", "refused")

    await until(decided, "the operation is decided")
    assert await deployment.agreed("author", author) == ({op} if told == ["done"] else set())
    assert await deployment.operation(op) == told[0]
    shown = [item["operation"] for item in (await deployment.attendees(event)).body["attendees"]]
    assert shown == ([op] if told == ["done"] else [])


async def test_a_duplicate_delivery_to_both_sides_makes_one_attendance(deployment: Deployment) -> None:
    author, event = await deployment.author(), await deployment.event(capacity=1)
    for service in ("author", "conference"):
        await deployment.faults(service, {"kind": "duplicate", "path": "/internal/attendance/"})
    answer = await deployment.create(event, author)
    assert answer.status == 201
    assert await deployment.agreed("event", event) == {answer.body["operation"]}
    seats = (await deployment.ask("conference", "GET", f"/event/{event}")).body["seats_taken"]
    assert seats == 1
