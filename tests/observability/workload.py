"""What happens while the check of the dashboards watches: everything that a panel shows, with an outage in it.

Assumes a running stack with faults allowed and nobody who restarts what is stopped. Each step waits for what it is for.
"""

from __future__ import annotations

import asyncio
import re
from random import Random

from tally.local.ask import ask
from tests.integration.resilience.deployment import Answer, Deployment, at_once, until

_MANY = 8
_NOWHERE = "01a2055d-685b-7fcf-98e9-9180cb1c798e"


async def work(deployment: Deployment) -> None:
    authors = [await _author(deployment) for _ in range(_MANY)]
    event, small = await deployment.event(capacity=100), await deployment.event(capacity=1)
    await _ordinary(deployment, authors, event, small)
    await _ill(deployment, authors[0], event)
    await _outage(deployment, authors, event)
    await _healed(deployment, authors[3], event)
    await _ended(deployment)


async def _author(deployment: Deployment) -> str:
    body = {"full_name": "Grace Hopper", "email": "grace@example.org"}
    return str((await deployment.ask("author", "POST", "/author", body)).body["id"])


async def _ordinary(deployment: Deployment, authors: list[str], event: str, small: str) -> None:
    """Creates that succeed, are refused for either side's reasons, reads in both directions, a cancel."""

    async def one(random: Random) -> Answer:
        await deployment.create(event, random.choice(authors))
        return await deployment.attendees(event)

    await at_once(4, 10, one)
    assert [(await deployment.create(small, author)).status for author in authors[:2]] == [201, 409]
    assert (await deployment.create(event, _NOWHERE)).status == 404
    assert (await deployment.create(_NOWHERE, authors[0])).status == 404
    assert (await deployment.ask("gateway", "GET", f"/author/{authors[0]}/attendance")).status == 200
    await deployment.create(event, authors[0])
    assert (await deployment.ask("gateway", "DELETE", f"/event/{event}/attendance/{authors[0]}")).status == 204


async def _ill(deployment: Deployment, author: str, event: str) -> None:
    """A participant that carries out and does not answer, and a caller with no time."""
    await deployment.faults("conference", {"kind": "hang", "path": "/internal/attendance/", "expires_s": 4.0})
    unknown = await deployment.create(event, author, **{"X-Deadline-Ms": "600"})
    assert unknown.status == 504, unknown


async def _outage(deployment: Deployment, authors: list[str], event: str) -> None:
    """A service is away until breakers open; what is asked for later meanwhile waits for it."""
    await asyncio.to_thread(deployment.stack.stop_service, "author")

    async def meanwhile() -> None:
        await deployment.create(event, authors[1])
        await deployment.attendees(event)

    await deployment.until_breaker("author/write", "open", meanwhile=meanwhile)
    later = await deployment.create(event, authors[2], Prefer="respond-async")
    assert later.status == 202, later
    await meanwhile()
    await asyncio.to_thread(deployment.stack.start_service, "author")


async def _healed(deployment: Deployment, author: str, event: str) -> None:
    async def closed() -> bool:
        await deployment.create(event, author)
        await deployment.attendees(event)
        return {one["state"] for one in (await deployment.breakers()).values()} == {"closed"}

    await until(closed, "every breaker of the gateway is closed")


async def _ended(deployment: Deployment) -> None:
    """What was asked for later has been carried out, the events have arrived, and mails were sent."""

    async def done() -> bool:
        confirmed = await deployment.metric("gateway", "tally_deferred_attempts_total", outcome="confirmed")
        return confirmed >= 1 and await asyncio.to_thread(_mails_sent, deployment) >= 1

    await until(done, "the deferred create is confirmed and mails are sent")


def _mails_sent(deployment: Deployment) -> float:
    """(The notifier speaks TLS in this deployment, with a certificate that nobody vouches for.)"""
    exposed = str(ask("GET", f"{deployment.stack.admin_urls['notifier']}/metrics").body)
    return sum(map(float, re.findall(r'^tally_mails_total\{.*outcome="sent".*\} (.+)$', exposed, re.MULTILINE)))
