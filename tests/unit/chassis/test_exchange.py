"""Connections that are kept: who gets one, who waits, and what is never used again. (Answers: `test_client.py`.)"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tally.chassis.exchange import Broken, Connections, NotConnected

REQUEST = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Peer:
    """Answers each request by `answer`, and counts its connections."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.came = 0
        self.writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> "Peer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exit: object) -> None:
        self._server.close()
        for writer in self.writers:
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        self.writers.append(writer)
        try:
            while await reader.readuntil(b"{}"):
                await self.answer(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


async def ok(writer: asyncio.StreamWriter) -> None:
    writer.write(OK)


async def ask(connections: Connections, within_s: float = 1.0) -> bytes:
    return (await connections.exchange(await connections.acquire(within_s), REQUEST, within_s)).body


async def test_who_waits_gets_the_connection_that_comes_back_in_the_order_of_coming() -> None:
    async with Peer(ok) as peer:
        connections = Connections("127.0.0.1", peer.port, most=1)
        first = await connections.acquire(1.0)
        order: list[int] = []

        async def wait(number: int) -> None:
            connection = await connections.acquire(1.0)
            order.append(number)
            await connections.exchange(connection, REQUEST, 1.0)

        waiting = [asyncio.create_task(wait(number)) for number in range(3)]
        await asyncio.sleep(0)
        await connections.exchange(first, REQUEST, 1.0)
        await asyncio.gather(*waiting)
        assert (order, peer.came, connections.in_use) == ([0, 1, 2], 1, 0)
        connections.close()


async def test_who_waits_may_make_one_when_another_breaks() -> None:
    async def hangs_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with Peer(hangs_up) as peer:
        connections = Connections("127.0.0.1", peer.port, most=1)
        first = await connections.acquire(1.0)
        second = asyncio.create_task(connections.acquire(1.0))
        await asyncio.sleep(0)
        with pytest.raises(Broken, match="reset"):
            await connections.exchange(first, REQUEST, 1.0)
        peer.answer = ok
        assert (await connections.exchange(await second, REQUEST, 1.0)).status == 200
        assert peer.came == 2
        connections.close()


async def test_who_gives_up_waiting_takes_nothing_with_it() -> None:
    async with Peer(ok) as peer:
        connections = Connections("127.0.0.1", peer.port, most=1)
        first = await connections.acquire(1.0)
        with pytest.raises(NotConnected, match="no-connection"):
            await connections.acquire(0.02)
        giving_up = asyncio.create_task(connections.acquire(1.0))
        await asyncio.sleep(0)
        await connections.exchange(first, REQUEST, 1.0)
        giving_up.cancel()  # in the moment in which the connection is handed to it
        await asyncio.gather(giving_up, return_exceptions=True)
        assert await ask(connections) == b"{}"
        assert (peer.came, connections.in_use) == (1, 0)
        connections.close()


async def test_an_exchange_that_is_cancelled_or_late_closes_its_connection() -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None: ...

    async with Peer(hangs) as peer:
        connections = Connections("127.0.0.1", peer.port)
        with pytest.raises(Broken, match="timeout"):
            await ask(connections, 0.05)
        task = asyncio.create_task(ask(connections))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)
        assert connections.in_use == 0
        peer.answer = ok
        assert await ask(connections) == b"{}"
        assert peer.came == 3
        connections.close()


async def test_an_interim_answer_is_not_the_answer() -> None:
    async def patient(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK)

    async with Peer(patient) as peer:
        connections = Connections("127.0.0.1", peer.port)
        assert [await ask(connections) for _ in range(2)] == [b"{}", b"{}"]
        assert peer.came == 1
        connections.close()


@pytest.mark.parametrize("more", [OK, b"x"])
async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again(more: bytes) -> None:
    async def talkative(writer: asyncio.StreamWriter) -> None:
        writer.write(OK)
        await writer.drain()
        await asyncio.sleep(0.02)
        writer.write(more)

    async with Peer(talkative) as peer:
        connections = Connections("127.0.0.1", peer.port)
        assert await ask(connections) == b"{}"
        await asyncio.sleep(0.1)
        assert connections.in_use == 0
        peer.answer = ok
        assert await ask(connections) == b"{}"
        assert peer.came == 2
        connections.close()


@pytest.mark.parametrize("more", [OK, OK[:40]], ids=["all", "a part"])
async def test_what_comes_in_one_piece_with_an_answer_is_not_the_next_ones(more: bytes) -> None:
    async def talkative(writer: asyncio.StreamWriter) -> None:
        writer.write(OK + more)

    async def late(writer: asyncio.StreamWriter) -> None:
        writer.write(OK[40:] if peer.came == 1 else OK)

    async with Peer(talkative) as peer:
        connections = Connections("127.0.0.1", peer.port)
        assert await ask(connections) == b"{}"
        peer.answer = late
        assert await ask(connections) == b"{}"
        assert peer.came == 2
        connections.close()


async def test_an_answer_without_an_end_of_its_own_is_cut_short() -> None:
    async def endless(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n{}")
        writer.close()

    async with Peer(endless) as peer:
        with pytest.raises(Broken, match="cut-short"):
            await ask(Connections("127.0.0.1", peer.port))


async def test_a_head_without_end_is_too_large() -> None:
    async def verbose(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"a: " + b"x" * 70_000)

    async with Peer(verbose) as peer:
        with pytest.raises(Broken, match="too-large"):
            await ask(Connections("127.0.0.1", peer.port))


async def test_many_who_ask_at_once_look_the_name_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0
    look_up = asyncio.get_running_loop().getaddrinfo

    async def counted(*where: Any, **how: Any) -> Any:
        nonlocal asked
        asked += 1
        return await look_up(*where, **how)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", counted)
    async with Peer(ok) as peer:
        connections = Connections("localhost", peer.port)
        await asyncio.gather(*(ask(connections) for _ in range(8)))
        assert (asked, peer.came) == (1, 8)
        connections.close()
