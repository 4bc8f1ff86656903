"""Statement 5: 500 clients for the last 10 seats of an event."""

import asyncio
from collections import Counter

from tests.chaos.client import new_session
from tests.integration.statements.stage import Stage, pair

CLIENTS, SEATS = 500, 10


async def test_of_500_clients_for_10_seats_exactly_10_get_one(stage: Stage) -> None:
    event = stage.event(capacity=SEATS)
    authors = stage.authors(CLIENTS)
    async with new_session() as session:

        async def create(author: str) -> tuple[int, str | None]:
            async with session.post(stage.gateway + pair(event, author)) as answer:
                return answer.status, (await answer.json()).get("code")

        answers = Counter(await asyncio.gather(*(create(author) for author in authors)))
    assert answers == {(201, None): SEATS, (409, "event-full"): CLIENTS - SEATS}
    assert stage.seats(event) == (SEATS, SEATS)
    listed = stage.ask("GET", f"/event/{event}/attendance?limit=500")
    assert len(listed.body["attendees"]) == SEATS
    stage.next_settlement()
    assert stage.seats(event) == (SEATS, SEATS)
