"""A whole stack to measure on: its processes by what they do, and questions to its database and its broker."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import nats
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from tally.local.stack import LocalStack, free_ports
from tally.messaging.stream import STREAM
from tests.bench import measure
from tests.bench.databases import Connection
from tests.bench.events.figures import BROKER, ITS_DATABASE, OWNER, by_group

OTHER_DATABASES, OTHERS, WRITERS, HARNESS, IDLE = "other databases", "others", "writers", "harness", "idle"
ENVIRONMENT = {"TALLY_ACCESS_LOG": "errors", "TALLY_LOG_FORMAT": "json"}
# How long the stack may take to publish, or to apply, what it was given.
PATIENCE_S = 120.0
LOOK_S = 0.05
READ_AT_ONCE = 500

BACKENDS = """
SELECT pid FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND application_name <> 'bench'
"""
WAITING = "SELECT EXISTS (SELECT FROM outbox WHERE published_at IS NULL)"


@dataclass(frozen=True)
class Ground:
    """A stack that runs."""

    stack: LocalStack

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """One of ours to the author's database; what its backend does is not counted as the service's."""
        connection = await asyncpg.connect(self.stack.dsn(OWNER), server_settings={"application_name": "bench"})
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def stream(self) -> AsyncIterator[JetStreamContext]:
        client = await nats.connect(self.stack.environment(OWNER)["TALLY_STREAM_URL"])
        try:
            yield client.jetstream()
        finally:
            await client.close()

    # --- processor time

    async def roots(self, writers: Mapping[str, int]) -> dict[str, int]:
        """The stack's processes by group; `writers` are backends of ours."""
        async with self.connection() as connection:
            backends = [row["pid"] for row in await connection.fetch(BACKENDS)]
        groups = {OWNER: OWNER, "nats": BROKER, "postgres": OTHER_DATABASES}
        named = {f"{groups.get(name, OTHERS)}#{name}": pid for name, pid in self.stack.running().items()}
        own = {f"{ITS_DATABASE}#{pid}": pid for pid in backends}
        return {**named, **own, **writers, HARNESS: os.getpid()}

    def services(self) -> dict[str, int]:
        """The stack's processes, each by its own name, and ours."""
        return {**self.stack.running(), HARNESS: os.getpid()}

    def idle_roots(self) -> dict[str, int]:
        """The same while another stack is measured: known, and of no interest."""
        return {f"{IDLE}#{name}-{pid}": pid for name, pid in self.stack.running().items()}

    # --- named moments

    async def published(self, connection: Connection) -> None:
        """Return when nothing waits in the author's outbox."""
        async with asyncio.timeout(PATIENCE_S):
            while await connection.fetchval(WAITING):  # noqa: ASYNC110
                await asyncio.sleep(LOOK_S)

    async def caught_up(self) -> None:
        """Return when every consumer has applied all that is in the stream."""
        async with self.stream() as stream, asyncio.timeout(PATIENCE_S):
            while any(one.num_pending or one.num_ack_pending for one in await stream.consumers_info(STREAM)):  # noqa: ASYNC110
                await asyncio.sleep(5 * LOOK_S)

    # --- the stream

    async def last_sequence(self) -> int:
        async with self.stream() as stream:
            return (await stream.stream_info(STREAM)).state.last_seq

    async def stored(self, subject: str, after: int) -> list[tuple[str, float]]:
        """What was stored below `subject` after a place in the stream: the last word of each message's subject, which
        is the entity's id, and when the broker stored it, in Unix seconds."""
        config = ConsumerConfig(
            filter_subject=subject,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=after + 1,
            ack_policy=AckPolicy.NONE,
            headers_only=True,
            mem_storage=True,
        )
        found: list[tuple[str, float]] = []
        async with self.stream() as stream:
            subscription = await stream.pull_subscribe("", stream=STREAM, config=config)
            left = (await subscription.consumer_info()).num_pending or 0
            while left:
                messages = await subscription.fetch(READ_AT_ONCE, timeout=5.0)
                found += [(one.subject.rpartition(".")[2], one.metadata.timestamp.timestamp()) for one in messages]
                left = messages[-1].metadata.num_pending
            await subscription.unsubscribe()
        return found


def used_by_group(before: measure.Used | None, after: measure.Used | None) -> measure.Used | None:
    """What was used in between, by group of processes."""
    if before is None or after is None:
        return None
    used = after.since(before)
    return measure.Used(by_group(used.tree_s), used.machine_s)


@contextmanager
def started(folder: Path, settings: Mapping[str, str]) -> Iterator[Ground]:
    """All of `make run`, durable, on ports and in a folder of its own."""
    folder.mkdir()
    stack = LocalStack(
        folder,
        ports=free_ports(),
        env={**os.environ, **ENVIRONMENT, **settings},
        supervise=False,  # Who dies is to be seen in the figures.
        durable=True,
    )
    with stack:
        yield Ground(stack)
