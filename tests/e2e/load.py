"""Load from inside the cluster: creates and cancels attendances until the file /tmp/stop is there, then checks that all
that was answered is true. Its last line is a summary in JSON. Runs in the services' image.

Each request has a connection of its own, as from a caller that has not been here before.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

AUTHORS, EVENTS, WORKERS = 60, 60, 4
PAUSE_S = 0.05
SETTLED_S = 10.0
URLS = {name: os.environ[f"{name.upper()}_URL"] for name in ("author", "conference", "gateway")}


def told_to_stop() -> bool:
    return Path("/tmp/stop").exists()


class Load:
    """`state` says of each pair what it must be now: True, False, or None for "either"."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._state: dict[tuple[str, str], bool | None] = {}
        self._counts: Counter[str] = Counter()
        self._strange: list[str] = []
        self._slowest_s = 0.0
        self._authors: list[str] = []
        self._events: list[str] = []

    async def run(self) -> dict[str, Any]:
        await self._prepare()
        print("loading", flush=True)
        pairs = [(event, author) for event in self._events for author in self._authors]
        random.shuffle(pairs)
        await asyncio.gather(*(self._work(pairs[number::WORKERS]) for number in range(WORKERS)))
        await asyncio.sleep(SETTLED_S)
        wrong = await self._wrong()
        return {
            "answers": dict(self._counts),
            "strange": self._strange[:20],
            "wrong": wrong[:20],
            "checked": len(self._state),
            "slowest_s": round(self._slowest_s, 3),
        }

    async def _prepare(self) -> None:
        for number in range(AUTHORS):
            self._authors.append(await self._made("author", "/author", {"full_name": f"Author {number}"}))
        conference = await self._made("conference", "/conference", {"acronym": "LOAD"})
        for number in range(1, EVENTS + 1):
            body = {"conference_id": conference, "seq": number}
            self._events.append(await self._made("conference", "/event", body))

    async def _made(self, service: str, path: str, body: Any) -> str:
        async with self._session.post(f"{URLS[service]}{path}", json=body) as response:
            assert response.status == 201, await response.text()
            return str((await response.json())["id"])

    async def _work(self, pairs: list[tuple[str, str]]) -> None:
        for number, pair in enumerate(pairs):
            if told_to_stop():
                return
            await self._step("POST", pair, done=201, becomes=True)
            if number % 4 == 0 and self._state[pair]:
                await self._step("DELETE", pair, done=204, becomes=False)
            await asyncio.sleep(PAUSE_S)

    async def _step(self, method: str, pair: tuple[str, str], *, done: int, becomes: bool) -> None:
        begun_s = time.monotonic()
        before = self._state.get(pair, False)
        url = f"{URLS['gateway']}/event/{pair[0]}/attendance/{pair[1]}"
        try:
            async with self._session.request(method, url) as response:
                text = await response.text()
                self._counts[f"{method} {response.status}"] += 1
                if response.status == done:
                    self._state[pair] = becomes
                elif response.status == 503 and "Retry-After" in response.headers:
                    self._state[pair] = before
                else:
                    self._state[pair] = None
                    self._tell(f"{method} {response.status} {text}", begun_s)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            self._counts[f"{method} no answer"] += 1
            self._state[pair] = None
            self._tell(f"{method} {type(error).__name__}: {error}", begun_s)
        self._slowest_s = max(self._slowest_s, time.monotonic() - begun_s)

    def _tell(self, what: str, begun_s: float) -> None:
        at = time.strftime("%H:%M:%S")
        self._strange.append(f"{at} after {time.monotonic() - begun_s:.3f} s: {what}"[:1200])

    async def _wrong(self) -> list[str]:
        """The pairs that are not what they must be, read at both ends."""
        wrong = []
        seen = {event: await self._listed(event) for event in self._events}
        for (event, author), must in self._state.items():
            if must is not None and (author in seen[event]) != must:
                wrong.append(f"{author} at {event} should be {'there' if must else 'absent'}")
        return wrong

    async def _listed(self, event: str) -> set[str]:
        async with self._session.get(f"{URLS['gateway']}/event/{event}/attendance?limit=500") as response:
            body = await response.json()
            assert response.status == 200 and body["complete"], body
            return {one["id"] for one in body["attendees"]}


async def main() -> None:
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=15)) as session:
        print(json.dumps(await Load(session).run()), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
