"""A running stack as these tests use it: requests as a client makes them, and what its signals say of it.

Assumes that the stack does not start anybody again by itself, and that the fault switch is on. A moment is waited for
by what the services tell (a breaker's state, a counter), never by time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import Any

import aiohttp
import asyncpg
from prometheus_client.parser import text_string_to_metric_families

from tally.chassis.clock import SystemClock
from tally.chassis.tokens import MintedTokens
from tally.local.keys import token_variables
from tally.local.operator import Operator
from tally.local.stack import LocalStack
from tests.chaos.client import new_session

PATIENCE_S = 30.0
POLL_S = 0.05
SETTLE_S = 15.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request, and how long it took."""

    status: int
    headers: Mapping[str, str]
    body: Any
    took_s: float

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None


class Deployment:
    """`ask` sends each request once; `metric` sums a metric's samples with these labels."""

    def __init__(self, stack: LocalStack, session: aiohttp.ClientSession) -> None:
        self.stack = stack
        self.session = session
        self.operator = Operator(stack.places, stack.folder)
        self._numbers = count(1)

    # -- requests

    async def ask(
        self,
        service: str,
        method: str,
        path: str,
        body: Any = None,
        *,
        admin: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        url = (self.stack.admin_urls if admin else self.stack.urls)[service] + path
        began_s = time.monotonic()
        async with self.session.request(method, url, json=body, headers=headers) as answer:
            content: Any = await answer.read()
            if "json" in answer.content_type:
                content = await answer.json(content_type=None)
            return Answer(answer.status, answer.headers, content, time.monotonic() - began_s)

    async def author(self) -> str:
        made = await self.ask("author", "POST", "/author", {"full_name": f"Author {next(self._numbers)}"})
        assert made.status == 201, made
        return str(made.body["id"])

    async def event(self, capacity: int | None = None) -> str:
        conference = await self.ask("conference", "POST", "/conference", {"acronym": "FAIL"})
        wanted = {"conference_id": conference.body["id"], "seq": next(self._numbers), "capacity": capacity}
        made = await self.ask("conference", "POST", "/event", wanted)
        assert made.status == 201, made
        return str(made.body["id"])

    async def create(self, event: str, author: str, **headers: str) -> Answer:
        return await self.ask("gateway", "PUT", f"/event/{event}/attendance/{author}", headers=headers)

    async def attendees(self, event: str, **headers: str) -> Answer:
        return await self.ask("gateway", "GET", f"/event/{event}/attendance", headers=headers)

    async def operation(self, op: str) -> str:
        """The state that an operation's address tells."""
        return str((await self.ask("gateway", "GET", f"/operation/{op}")).body["state"])

    # -- signals

    async def metric(self, service: str, name: str, **labels: str) -> float:
        text = (await self.ask(service, "GET", "/metrics", admin=True)).body.decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    async def attempts(self, service: str, peer: str) -> float:
        """Calls that `service` has really sent to `peer`."""
        return await self.metric(service, "http_client_request_duration_seconds_count", peer=peer)

    async def received(self, service: str) -> float:
        """Internal requests of creates that a service has answered, whatever it answered."""
        routes = ("record", "resolve", "kill", "cancel")
        name = "http_server_request_duration_seconds_count"
        return sum([await self.metric(service, name, http_route=f"/internal/attendance/{one}") for one in routes])

    async def breakers(self, service: str = "gateway") -> dict[str, dict[str, Any]]:
        items = await asyncio.to_thread(self.operator.breakers, service)
        return {f"{one['peer']}/{one['kind']}": one["breaker"] for one in items}

    async def until_breaker(self, which: str, *states: str, meanwhile: Callable[[], Awaitable[Any]]) -> None:
        """Ask until the gateway's breaker is in one of these states."""

        async def reached() -> bool:
            await meanwhile()
            return (await self.breakers())[which]["state"] in states

        await until(reached, f"the breaker {which} is {' or '.join(states)}")

    # -- faults

    async def faults(self, service: str, *faults: dict[str, Any]) -> None:
        wanted = [{"expires_s": 120.0, **fault} for fault in faults]
        await asyncio.to_thread(self.operator.set_faults, service, wanted)

    async def hits(self, service: str) -> int:
        """How often the faults that are on have struck."""
        return sum(int(one["hits"]) for one in await asyncio.to_thread(self.operator.faults, service))

    async def healed(self) -> None:
        """Everything runs, no fault is on, and every breaker of the gateway is closed."""
        for name in self.stack.places:
            if name not in self.stack.running():
                await asyncio.to_thread(self.stack.start_service, name)
            await self.faults(name)
        author, event = await self.author(), await self.event()

        async def closed() -> bool:
            await self.create(event, author)
            await self.attendees(event)
            return {one["state"] for one in (await self.breakers()).values()} == {"closed"}

        await until(closed, "every breaker is closed")

    async def emptied(self) -> None:
        """Delete every author and conference."""
        for service, path in (("author", "/author"), ("conference", "/conference")):
            while items := (await self.ask(service, "GET", f"{path}?limit=100")).body["items"]:
                gone = (self.ask(service, "DELETE", f"{path}/{item['id']}?cascade=true") for item in items)
                assert {answer.status for answer in await asyncio.gather(*gone)} == {204}

    # -- databases

    async def live(self, service: str, column: str, entity: str) -> set[str]:
        """The operations of an author or event that a service's own database holds live."""
        connection = await asyncpg.connect(self.stack.dsn(service))
        try:
            query = f"SELECT op FROM attendance_half WHERE st = 'L' AND {column} = $1"
            return {str(row["op"]) for row in await connection.fetch(query, entity)}
        finally:
            await connection.close()

    async def agreed(self, column: str, entity: str) -> set[str]:
        """The live operations of an entity, when both databases hold the same ones and the settler has looked."""
        held: list[set[str]] = []

        async def alike() -> bool:
            held[:] = [await self.live(service, column, entity) for service in ("author", "conference")]
            return held[0] == held[1]

        await until(alike, "both databases hold the same halves", SETTLE_S)
        return held[0]

    # -- tokens

    def token(self, subject: str, audience: str) -> str:
        """A token that the services accept as this one's."""
        key = token_variables(self.stack.folder)["TALLY_TOKEN_KEY_FILE"]
        return MintedTokens(key, subject, "tally", SystemClock())(audience)


@asynccontextmanager
async def deployed(stack: LocalStack) -> AsyncIterator[Deployment]:
    async with new_session() as session:
        yield Deployment(stack, session)


async def until(holds: Callable[[], Awaitable[bool]], what: str, patience_s: float = PATIENCE_S) -> None:
    give_up_s = time.monotonic() + patience_s
    while not await holds():
        assert time.monotonic() < give_up_s, f"not within {patience_s:g} s: {what}"
        await asyncio.sleep(POLL_S)


async def at_once(clients: int, each: int, one: Callable[[Random], Awaitable[Answer]]) -> list[Answer]:
    """Clients that each send requests one after the other."""

    async def client(number: int) -> list[Answer]:
        random = Random(number)
        return [await one(random) for _ in range(each)]

    return [answer for answers in await asyncio.gather(*map(client, range(clients))) for answer in answers]


def median_s(answers: list[Answer]) -> float:
    return sorted(answer.took_s for answer in answers)[len(answers) // 2]
