"""The relay's two ways out of the database: TALLY_RELAY=outbox and =wal, each on a stack of its own, in turn.

backlog     while the author service is stopped (SIGSTOP), authors are inserted, one transaction each; then it goes on.
            What counts is from there to the last event's place in the stream.
steady      authors are inserted at an even rate, whether or not the one before is done; what counts is how long each
            event takes from its commit to the stream.

Processor time counts until each event is marked as published. Everybody else hears of the events meanwhile, as they
would: so the broker's time includes handing them out, and the databases of others are a column of their own.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from uuid import uuid4

import asyncpg

from tests.bench import measure
from tests.bench.databases import Connection
from tests.bench.events.figures import OWNER, Relayed, Way, Work, latencies, quantiles
from tests.bench.events.ground import HARNESS, IDLE, WRITERS, Ground, used_by_group

SUBJECT = "tally.event.author.created.*"
WRITER_COUNT = 8
INSERT = "INSERT INTO author (id, full_name, email) VALUES ($1, 'Author of a Change', 'change@example.org')"
# One transaction each, as services write; that they are on the disk at once is nobody's question here.
BACKLOG = """
DO $$ BEGIN
    FOR n IN 1..{count} LOOP
        INSERT INTO author (id, full_name, email)
        VALUES (gen_random_uuid(), 'Author of a Backlog', 'backlog@example.org');
        COMMIT;
    END LOOP;
END $$
"""
NEWEST = "SELECT coalesce(max(seq), 0) FROM outbox"
SINCE = "SELECT subject::text FROM outbox WHERE seq > $1"


class Relays:
    """Both ways, each with its stack."""

    def __init__(self, grounds: Mapping[Way, Ground], *, backlog: int, rate: float, steady_s: float) -> None:
        self._grounds = grounds
        self._backlog = backlog
        self._rate = rate
        self._steady_s = steady_s

    def sample(self, way: Way, work: Work, number: int) -> Relayed:
        return asyncio.run(self._sample(way, work, number))

    async def _sample(self, way: Way, work: Work, number: int) -> Relayed:
        ground = self._grounds[way]
        await ground.caught_up()
        first = await ground.last_sequence()
        async with ground.connection() as connection, self._writers(ground) as writers:
            roots = await self._roots(way, writers)
            if work == "backlog":
                committed, before = await self._pile_up(ground, connection, roots)
            else:
                before = measure.used(roots)
                committed = await self._write_evenly(writers)
            await ground.published(connection)
            after = measure.used(roots)
        stored = await ground.stored(SUBJECT, first)
        return relayed(way, work, number, committed, stored, used_by_group(before, after))

    def _writers(self, ground: Ground) -> asyncpg.Pool:
        size, settings = WRITER_COUNT, {"application_name": "bench"}
        return asyncpg.create_pool(ground.stack.dsn(OWNER), min_size=size, max_size=size, server_settings=settings)

    async def _roots(self, way: Way, writers: asyncpg.Pool) -> dict[str, int]:
        connections = [await writers.acquire() for _ in range(WRITER_COUNT)]
        pids = {f"{WRITERS}#{one.get_server_pid()}": one.get_server_pid() for one in connections}
        for connection in connections:
            await writers.release(connection)
        idle = [other.idle_roots() for name, other in self._grounds.items() if name != way]
        return {**await self._grounds[way].roots(pids), **{name: pid for one in idle for name, pid in one.items()}}

    async def _pile_up(
        self, ground: Ground, connection: Connection, roots: Mapping[str, int]
    ) -> tuple[dict[str, float], measure.Used | None]:
        """The backlog, all of it waiting since the moment in which the service goes on."""
        ground.stack.pause(OWNER)
        try:
            subjects = await pile(connection, self._backlog)
            before = measure.used(roots)
            released_s = time.time()
        finally:
            ground.stack.resume(OWNER)
        return dict.fromkeys(subjects, released_s), before

    async def _write_evenly(self, writers: asyncpg.Pool) -> dict[str, float]:
        """Each event's subject, and when its commit was answered."""
        committed: dict[str, float] = {}

        async def write() -> None:
            subject = uuid4()
            await writers.execute(INSERT, subject)
            committed[str(subject)] = time.time()

        async with asyncio.TaskGroup() as writing:
            began_s = time.monotonic()
            for n in range(round(self._rate * self._steady_s)):
                await asyncio.sleep(max(0.0, began_s + n / self._rate - time.monotonic()))
                writing.create_task(write())
        return committed


async def pile(connection: Connection, count: int) -> list[str]:
    """Insert authors, each in a transaction of its own: their ids."""
    newest = await connection.fetchval(NEWEST)
    await connection.execute("SET synchronous_commit = off")
    await connection.execute(BACKLOG.format(count=count))
    await connection.execute("RESET synchronous_commit")
    return [row["subject"] for row in await connection.fetch(SINCE, newest)]


def relayed(
    way: Way,
    work: Work,
    number: int,
    committed: Mapping[str, float],
    stored: Sequence[tuple[str, float]],
    used: measure.Used | None,
) -> Relayed:
    """What the slot came to."""
    waits, wrong = latencies(committed, stored)
    p50_s, p99_s = quantiles(waits)
    ours = [at for subject, at in stored if subject in committed]
    elapsed_s = max(max(ours) - min(committed.values()), 1e-3) if ours else float("inf")
    count = max(len(committed), 1)
    shown = {name: 1e6 * s / count for name, s in used.tree_s.items() if name not in (IDLE, HARNESS)} if used else {}
    return Relayed(
        way=way,
        work=work,
        round=number,
        events=len(committed),
        elapsed_s=elapsed_s,
        p50_s=p50_s,
        p99_s=p99_s,
        cpu_us=shown,
        other_cores=used.others_s / elapsed_s if used else None,
        wrong=wrong,
    )


def line(sample: Relayed) -> str:
    """One slot as a line of progress."""
    text = (
        f"{sample.way:6} {sample.work:7} {sample.per_second:7,.0f} events/s  "
        f"p50 {1e3 * sample.p50_s:7.1f} ms  p99 {1e3 * sample.p99_s:7.1f} ms"
    )
    return "  ".join([text, *sample.wrong])
