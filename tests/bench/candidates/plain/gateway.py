"""The plain gateway: `uvicorn tests.bench.candidates.plain.gateway:app` with AUTHOR_URL, CONFERENCE_URL."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aiohttp
import msgspec
import uuid_utils.compat as uuid_utils
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.candidates.plain.messages import (
    Attendance,
    AuthorIds,
    EventAttendance,
    EventAuthors,
    Person,
    json,
)

AUTHOR_URL = os.environ["AUTHOR_URL"]
CONFERENCE_URL = os.environ["CONFERENCE_URL"]


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as app.state.session:
        yield


async def create_attendance(request: Request) -> Response:
    wanted = Attendance(uuid_utils.uuid7(), UUID(request.path_params["event"]), UUID(request.path_params["author"]))
    body = msgspec.json.encode(wanted)
    statuses = await asyncio.gather(
        post_attendance(request, AUTHOR_URL, body), post_attendance(request, CONFERENCE_URL, body)
    )
    status = max(statuses)
    return json(wanted, status) if status == 201 else Response("not attending", status)


async def post_attendance(request: Request, service_url: str, body: bytes) -> int:
    async with request.app.state.session.post(f"{service_url}/attendance", data=body) as response:
        await response.read()
        return int(response.status)


async def read_attendance(request: Request) -> Response:
    session: aiohttp.ClientSession = request.app.state.session
    async with session.get(f"{CONFERENCE_URL}/event/{request.path_params['event']}/authors") as response:
        if response.status != 200:
            return Response(await response.read(), response.status)
        listed = msgspec.json.decode(await response.read(), type=EventAuthors)
    async with session.post(f"{AUTHOR_URL}/people", data=msgspec.json.encode(AuthorIds(listed.authors))) as response:
        people = msgspec.json.decode(await response.read(), type=list[Person])
    return json(EventAttendance(listed.event, people))


app = Starlette(
    routes=[
        Route("/event/{event}/attendance/{author}", create_attendance, methods=["POST"]),
        Route("/event/{event}/attendance", read_attendance),
    ],
    lifespan=lifespan,
)
