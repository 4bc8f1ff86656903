"""The plain conference service: `uvicorn tests.bench.candidates.plain.conference:app` with DATABASE_URL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.candidates.plain.messages import Attendance, Event, EventAuthors, json

PAGE = 50


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as app.state.pool:
        yield


async def create_attendance(request: Request) -> Response:
    wanted = msgspec.json.decode(await request.body(), type=Attendance)
    try:
        await request.app.state.pool.execute(
            "INSERT INTO attendance (op, event, author) VALUES ($1, $2, $3)",
            wanted.op,
            wanted.event,
            wanted.author,
        )
    except asyncpg.ForeignKeyViolationError:
        return Response("unknown event", 404)
    except asyncpg.UniqueViolationError:
        return Response("already attending", 409)
    return Response(status_code=201)


async def read_event_authors(request: Request) -> Response:
    event = UUID(request.path_params["event"])
    async with request.app.state.pool.acquire() as connection:
        row = await connection.fetchrow("SELECT id, conference_id, seq, title, version FROM event WHERE id = $1", event)
        if row is None:
            return Response("unknown event", 404)
        authors = await connection.fetch(
            "SELECT author FROM attendance WHERE event = $1 ORDER BY author LIMIT $2", event, PAGE
        )
    return json(EventAuthors(Event(*row), [author["author"] for author in authors]))


app = Starlette(
    routes=[
        Route("/attendance", create_attendance, methods=["POST"]),
        Route("/event/{event}/authors", read_event_authors),
    ],
    lifespan=lifespan,
)
