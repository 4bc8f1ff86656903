"""Who is at a service's address while the service is not: somebody else, or a host that says nothing.

So an address looks that has become stale: connections are taken and mean something else, or are neither taken nor
refused, as by a host behind which packets disappear. Assumes that the service has stopped; ends when the block does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

_BANNER: Final = b"SSH-2.0-OpenSSH_9.2\r\n"
_CROWD: Final = 4


@asynccontextmanager
async def impostor(host: str, port: int) -> AsyncIterator[None]:
    """Somebody who got the address, and speaks another protocol."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(_BANNER)
        writer.close()

    async with await asyncio.start_server(serve, host, port, reuse_address=True):
        yield


@asynccontextmanager
async def silence(host: str, port: int) -> AsyncIterator[None]:
    """A queue of connections that is full, and that nobody looks at."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(0)
        crowd = [socket.socket() for _ in range(_CROWD)]
        try:
            for one in crowd:
                one.setblocking(False)
                one.connect_ex((host, port))
            yield
        finally:
            for one in crowd:
                one.close()


IMPOSTORS: Final = {"impostor": impostor, "silence": silence}


def at(fault: str, host: str, port: int) -> AbstractAsyncContextManager[None]:
    """Whoever the fault is named for."""
    return IMPOSTORS[fault](host, port)
