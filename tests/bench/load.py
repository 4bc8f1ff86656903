"""The load process for the candidates that speak HTTP: `python -m tests.bench.load`, slots on standard input.

As lean as Python allows, since it shares the machine with what it measures: preformatted requests, one
keep-alive connection per client with one request in flight, only as much parsing as checking an answer needs.
A client does not wait for the others: its request leaves when it is written, not when all answers that came with its
own have been looked at.
"""

import asyncio
import random
import re
from collections.abc import Callable
from functools import cache
from typing import cast
from uuid import UUID

import uvloop

from tests.bench import slots, workload
from tests.bench.slots import Clock, Result, Slot

CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
# Each listed attendee has one, and nothing else in the answer does.
ATTENDEE_MARK = b'"full_name"'
SHED = "503"


def create_request(n: int) -> bytes:
    return attendance_request(*workload.created_pair(n))


def prepare_request(n: int) -> bytes:
    return attendance_request(*workload.listed_pair(n))


def attendance_request(event: UUID, author: UUID) -> bytes:
    return b"POST /event/%b/attendance/%b HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n" % (
        segment(event),
        segment(author),
    )


@cache
def segment(id: UUID) -> bytes:
    """As it is in a path."""
    return str(id).encode()


def read_request(n: int) -> bytes:
    return b"GET /event/%b/attendance HTTP/1.1\r\nHost: bench\r\n\r\n" % segment(workload.listed_event(n))


def fault_of_create(status: bytes, body: bytes) -> str | None:
    return None if status == b"201" else status.decode("latin-1")


def fault_of_read(status: bytes, body: bytes) -> str | None:
    if status != b"200":
        return status.decode("latin-1")
    listed = body.count(ATTENDEE_MARK)
    return None if listed == workload.LISTED_AUTHORS else f"{listed} attendees"


REQUEST: dict[slots.Work, Callable[[int], bytes]] = {
    "create": create_request,
    "prepare": prepare_request,
    "read": read_request,
}
FAULT: dict[slots.Work, Callable[[bytes, bytes], str | None]] = {
    "create": fault_of_create,
    "prepare": fault_of_create,
    "read": fault_of_read,
}


def split_response(data: bytes) -> tuple[bytes, bytes] | None:
    """The status and body of a complete response, None while some of it is missing.

    ValueError for what this client can't read: an answer without Content-Length, or more than one answer.
    """
    head_end = data.find(b"\r\n\r\n")
    if head_end < 0:
        return None
    length = CONTENT_LENGTH.search(data, 0, head_end)
    if length is None:
        raise ValueError("no content-length")
    body = data[head_end + 4 :]
    missing = int(length[1]) - len(body)
    if missing < 0:
        raise ValueError("more than one answer")
    return (data[9:12], body) if missing == 0 else None


class Client(asyncio.Protocol):
    """One connection, which always has one request in flight from `begin` until the slot is over."""

    def __init__(self, slot: Slot) -> None:
        self.over = asyncio.get_running_loop().create_future()
        self._pause_s = slot.pause_s
        self._request = REQUEST[slot.work]
        self._fault = FAULT[slot.work]
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=0)  # (uvloop writes at once then.)

    def begin(self, clock: Clock) -> None:
        self._clock = clock
        self._send()

    def _send(self) -> None:
        n = self._clock.take()
        if n is None:
            self._end()
            return
        self._begun = self._clock.now()
        self._transport.write(self._request(n))

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        try:
            response = split_response(self._received)
        except ValueError as unreadable:
            self._clock.failed(str(unreadable))
            self._end()
            return
        if response is None:
            return
        self._received = b""
        fault = self._fault(*response)
        if fault is None:
            self._clock.succeeded(self._begun)
        else:
            self._clock.failed(fault)
            if fault == SHED and self._pause_s:
                pause_s = self._pause_s * random.uniform(1.0, 2.0)
                asyncio.get_running_loop().call_later(pause_s, self._send)
                return
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        # In the middle of a slot its request stays unanswered; the clock counts that. This client is out.
        self._end()

    def _end(self) -> None:
        if not self.over.done():
            self.over.set_result(None)


async def run(slot: Slot) -> Result:
    try:
        connections = [await connect(slot) for _ in range(slot.clients)]
    except OSError:
        clock = Clock(slot)
        clock.take()
        clock.failed("no connection")
        return clock.result()
    clock = Clock(slot)
    for _, client in connections:
        if slot.pause_s:
            asyncio.get_running_loop().call_later(random.uniform(0.0, slot.pause_s), client.begin, clock)
        else:
            client.begin(clock)
    await asyncio.wait([client.over for _, client in connections], timeout=slot.seconds + slots.ANSWER_MAX_S)
    result = clock.result()
    for transport, _ in connections:
        transport.abort()
    return result


async def connect(slot: Slot) -> tuple[asyncio.Transport, Client]:
    loop = asyncio.get_running_loop()
    return await loop.create_connection(lambda: Client(slot), "127.0.0.1", slot.port)


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        slots.serve(lambda slot: runner.run(run(slot)))


if __name__ == "__main__":
    main()
