"""The load process for the candidates without HTTP: `python -m tests.bench.inserts WAY AUTHOR_DSN CONF_DSN`.

It is client and gateway in one: its clients are coroutines, and creating an attendance is a call.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from uuid import UUID

import asyncpg
import uuid_utils.compat as uuid_utils
import uvloop

from tests.bench import slots, workload
from tests.bench.slots import Clock, Result, Slot

Create = Callable[[UUID, UUID], Awaitable[None]]
Pair = tuple[UUID, UUID]
PAIR: dict[slots.Work, Callable[[int], Pair]] = {
    "create": workload.created_pair,
    "prepare": workload.listed_pair,
}

INSERT = "INSERT INTO attendance (op, event, author) VALUES ($1, $2, $3)"
INSERT_BATCH = "INSERT INTO attendance (op, event, author) SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[])"
BATCH_MAX = 500
FAULTS = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError)


async def single(author_dsn: str, conference_dsn: str) -> Create:
    """(a) One row in each database, in parallel, from asyncpg's pools as they come."""
    author = await asyncpg.create_pool(author_dsn)
    conference = await asyncpg.create_pool(conference_dsn)

    async def create(event: UUID, attendee: UUID) -> None:
        op = uuid_utils.uuid7()
        await asyncio.gather(
            author.execute(INSERT, op, event, attendee), conference.execute(INSERT, op, event, attendee)
        )

    return create


async def batched(author_dsn: str, conference_dsn: str) -> Create:
    """(b) While a batch is in flight, the next one gathers; one connection to each database."""
    author = await asyncpg.connect(author_dsn)
    conference = await asyncpg.connect(conference_dsn)
    waiting: list[tuple[Pair, asyncio.Future[None]]] = []
    sender: asyncio.Task[None] | None = None

    async def send() -> None:
        while waiting:
            batch = waiting[:BATCH_MAX]
            del waiting[:BATCH_MAX]
            try:
                await write([pair for pair, _ in batch])
            except FAULTS as fault:
                for _, answered in batch:
                    answered.set_exception(fault)
            else:
                for _, answered in batch:
                    answered.set_result(None)

    async def write(pairs: list[Pair]) -> None:
        columns = (
            [uuid_utils.uuid7() for _ in pairs],
            [event for event, _ in pairs],
            [who for _, who in pairs],
        )
        await asyncio.gather(author.execute(INSERT_BATCH, *columns), conference.execute(INSERT_BATCH, *columns))

    async def create(event: UUID, attendee: UUID) -> None:
        nonlocal sender
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting.append(((event, attendee), answered))
        if sender is None or sender.done():
            sender = asyncio.create_task(send())
        await answered

    return create


async def client(slot: Slot, clock: Clock, create: Create) -> None:
    pair = PAIR[slot.work]
    while (n := clock.take()) is not None:
        begun = clock.now()
        try:
            await create(*pair(n))
        except FAULTS as fault:
            clock.failed(type(fault).__name__)
        else:
            clock.succeeded(begun)


async def run(slot: Slot, create: Create) -> Result:
    clock = Clock(slot)
    clients = [asyncio.create_task(client(slot, clock, create)) for _ in range(slot.clients)]
    done, unanswered = await asyncio.wait(clients, timeout=slot.seconds + slots.ANSWER_MAX_S)
    result = clock.result()
    for late in unanswered:
        late.cancel()
    for finished in done:
        finished.result()
    return result


def main() -> None:
    way = {"single": single, "batched": batched}[sys.argv[1]]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        create = runner.run(way(*sys.argv[2:4]))
        slots.serve(lambda slot: runner.run(run(slot, create)))


if __name__ == "__main__":
    main()
