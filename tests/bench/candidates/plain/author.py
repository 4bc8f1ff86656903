"""The plain author service: `uvicorn tests.bench.candidates.plain.author:app` with DATABASE_URL."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.bench.candidates.plain.messages import Attendance, AuthorIds, Person, json


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
        return Response("unknown author", 404)
    except asyncpg.UniqueViolationError:
        return Response("already attending", 409)
    return Response(status_code=201)


async def read_people(request: Request) -> Response:
    wanted = msgspec.json.decode(await request.body(), type=AuthorIds)
    rows = await request.app.state.pool.fetch(
        "SELECT id, full_name, email, version FROM author WHERE id = ANY($1::uuid[])", wanted.ids
    )
    return json([Person(*row) for row in rows])


app = Starlette(
    routes=[
        Route("/attendance", create_attendance, methods=["POST"]),
        Route("/people", read_people, methods=["POST"]),
    ],
    lifespan=lifespan,
)
