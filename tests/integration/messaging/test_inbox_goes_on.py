"""An inbox does not stand still, nor does it skip anything, after its stream, its database or its leader was lost."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

from tally.messaging.inbox import _lock_key
from tests.integration.messaging.consumer import (
    FIRST_LIFE,
    NAME,
    Consumer,
    Scene,
    event,
    moment,
    running,
)

_TCP_REPAIR = 19
_GHOST = """
import asyncio, os, socket, sys, time
from tally.chassis.database import Database

async def main(dsn, key):
    session = await Database(dsn, "ghost").session()
    assert await session.fetchval("SELECT pg_try_advisory_lock($1)", int(key))
    print("leads", flush=True)
    sys.stdin.readline()
    # The kernel acknowledges the answer a moment later; before that, the server would ask for it at once.
    time.sleep(0.5)
    # Under repair, a socket is closed without a word.
    session._transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, 19, 1)
    os._exit(0)

asyncio.run(main(*sys.argv[1:]))
"""


# --- the stream


async def test_a_stream_that_is_deleted_while_its_consumer_waits_is_read_anew(scene: Scene, consumer: Consumer) -> None:
    one, other = uuid4(), uuid4()
    async with running(consumer):
        await scene.publish(event(one, 1, "created"), event(one, 2))
        await moment(lambda: consumer.inbox.applied_sequence == 2)
        await scene.wipe()
        await scene.publish(event(other, 1, "created"))
        await moment(lambda: consumer.counted("applied") == 3)
    assert await consumer.view() == {one: (FIRST_LIFE, 2, "v2"), other: (FIRST_LIFE, 1, "v1")}


async def test_a_broker_that_comes_back_without_its_disk_is_read_anew(scene: Scene, consumer: Consumer) -> None:
    one, other = uuid4(), uuid4()
    async with running(consumer):
        await scene.publish(event(one, 1, "created"), event(one, 2))
        await moment(lambda: consumer.inbox.applied_sequence == 2)
        await asyncio.to_thread(scene.broker.wipe)
        await asyncio.to_thread(scene.broker.start)
        await scene.reachable()
        await scene.publish(*(event(other, version) for version in range(1, 6)))
        await moment(lambda: consumer.inbox.applied_sequence == 5)
    assert await consumer.view() == {one: (FIRST_LIFE, 2, "v2"), other: (FIRST_LIFE, 5, "v5")}


@pytest.mark.parametrize("further", [0, 1, 3], ids=["behind the cursor", "up to the cursor", "beyond the cursor"])
async def test_what_fills_an_older_copy_of_the_stream_is_not_skipped(
    scene: Scene, consumer: Consumer, further: int
) -> None:
    """A broker whose disk lost its last writes, or was put back: places that were read are taken by other messages."""
    one, other, third = uuid4(), uuid4(), uuid4()
    await scene.publish(event(one, 1, "created"))
    copy = await asyncio.to_thread(scene.broker.copy)
    await scene.reachable()
    async with running(consumer):
        await scene.publish(event(one, 2), event(one, 3))
        await moment(lambda: consumer.inbox.applied_sequence == 3)
        await asyncio.to_thread(scene.broker.put_back, copy)
        # Before anybody looks, it is as long as it was, or longer.
        await asyncio.to_thread(scene.broker.start)
        await scene.reachable()
        await scene.publish(event(other, 1, "created"), *(event(third, version + 1) for version in range(further)))
        await moment(lambda: consumer.counted("applied") == 4 + further)
    view = await consumer.view()
    assert view[one] == (FIRST_LIFE, 3, "v3"), "what the stream lost is not lost here"
    assert view[other] == (FIRST_LIFE, 1, "v1")
    assert set(view) == {one, other} | ({third} if further else set())


# --- who leads


@pytest.mark.skipif(sys.platform != "linux", reason="a socket that vanishes without a word is Linux's")
async def test_the_lock_of_a_process_that_vanished_without_a_word_is_free_within_seconds(
    scene: Scene, consumer: Consumer
) -> None:
    with socket.socket() as probe:
        try:
            probe.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, 1)
        except PermissionError:
            pytest.skip("needs CAP_NET_ADMIN")
    ghost = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _GHOST, scene.dsn, str(_lock_key(NAME))),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert ghost.stdin is not None and ghost.stdout is not None
    assert await ghost.stdout.readline() == b"leads\n"
    subject = uuid4()
    async with running(consumer):
        sequence = await scene.publish(event(subject, 1, "created"))
        ghost.stdin.write(b"\n")
        assert await ghost.wait() == 0
        await moment(lambda: consumer.inbox.applied_sequence == sequence)
    assert await consumer.view() == {subject: (FIRST_LIFE, 1, "v1")}


async def test_a_leader_whose_connection_ended_without_a_word_stands_by(scene: Scene) -> None:
    """A partition that the database noticed and we did not: another process has the lock now."""
    async with Wire(scene.dsn) as wire:
        first, second = scene.consumer(dsn=wire.dsn), scene.consumer()
        subject = uuid4()
        async with running(first), running(second):
            sequence = await scene.publish(event(subject, 1, "created"))
            await moment(lambda: first.inbox.applied_sequence == sequence)
            leader, other = (first, second) if first.batches else (second, first)
            if leader is second:
                await second.inbox.close()
                await moment(lambda: "leads" in repr(first.inbox))
                leader, other = first, second
            wire.cut()
            await moment(lambda: "leads" in repr(other.inbox))
            await moment(lambda: "stands by" in repr(leader.inbox))
            sequence = await scene.publish(event(subject, 2))
            await moment(lambda: other.inbox.applied_sequence == sequence)
    assert await second.view() == {subject: (FIRST_LIFE, 2, "v2")}


async def test_who_stands_by_tells_how_much_waits_for_a_leader_that_takes_nothing(
    scene: Scene, consumer: Consumer
) -> None:
    await consumer.until(await scene.publish(event(uuid4(), 1, "created")))
    await consumer.inbox.close()
    ghost = await asyncpg.connect(scene.dsn)
    try:
        assert await ghost.fetchval("SELECT pg_try_advisory_lock($1)", _lock_key(NAME))
        await scene.publish(*(event(uuid4(), 1, "created") for _ in range(3)))
        standby = scene.consumer()
        async with running(standby):
            await moment(lambda: standby.gauge("stream_pending") == 3)
        assert standby.batches == []
    finally:
        await ghost.close()


class Wire:
    """A way to PostgreSQL that can be cut in such a manner that only the server is told."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._upstream: list[asyncio.StreamWriter] = []
        self._cut: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *exit: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def dsn(self) -> str:
        assert self._server is not None
        port = self._server.sockets[0].getsockname()[1]
        netloc = self._parts.netloc.replace(f":{self._parts.port}", f":{port}")
        return self._parts._replace(netloc=netloc).geturl()

    def cut(self) -> None:
        """All that goes over it now; what comes later is carried."""
        self._cut.update(self._upstream)
        for writer in self._upstream:
            writer.transport.abort()
        self._upstream.clear()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        theirs, ours = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._upstream.append(ours)
        try:
            await asyncio.gather(self._carried(reader, ours, ours), self._carried(theirs, writer, ours))
        finally:
            ours.transport.abort()
            writer.transport.abort()

    async def _carried(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, ours: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if ours not in self._cut:
                    writer.write(data)
        if ours in self._cut:
            await asyncio.Event().wait()  # who was cut off hears nothing
        writer.close()
