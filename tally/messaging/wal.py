"""The relay that reads the database's log instead of the outbox table: TALLY_RELAY=wal.

What is read is the outbox's inserts, in the order of their commits: logical decoding (pgoutput) of a publication of
that table. The other way, `pg_logical_emit_message` beside each insert, would write every event to the log twice.

Assumes a database with wal_level=logical and a role that has REPLICATION and may create a publication (it owns the
outbox, and has CREATE on the database). The embedded default grants it; in production `ALTER ROLE author REPLICATION`
does. The server should set max_slot_wal_keep_size, so that a relay that is away does not fill the disk; a slot that
falls behind further is lost then, and that loses no event:

- A row is marked as published after the stream acknowledged it, here as in the other relay, in batches.
- Whoever takes the slot over, makes it, or makes it anew because it is gone, first publishes every row that is not
  marked; so does each sweep, every few seconds, with what should have come by the log by then.

One process at a time reads the slot: who holds an advisory lock on the connection that reads. The others wait for it.
Whoever turns back to TALLY_RELAY=outbox drops the slot (`SELECT pg_drop_replication_slot(…)`), or the database keeps
its log up to max_slot_wal_keep_size.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.resources import files
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec
import structlog

from tally.chassis.clock import Clock
from tally.chassis.database import KEEPALIVES, Connection, Record
from tally.chassis.database_faults import DatabaseUnavailable
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals
from tally.messaging.outbox import CHANNEL, Outbox
from tally.messaging.relay import Relay, RelaySettings
from tally.messaging.stream import Stream

#: What the log has not brought by then is published from the table. Longer than publishing takes.
_SWEEP_S: Final = 5.0
_SWEEP_AGE: Final = timedelta(seconds=_SWEEP_S)
#: Marks are collected for so long, or until there are so many.
_MARK_S: Final = 0.5
_MARK_MAX: Final = 1000
#: A transaction that writes one event is three rows of the log: its beginning, the event, its commit.
_ROWS_PER_EVENT: Final = 3
#: How much of the log without events is skipped at once; less is not worth the reading.
_SKIP_BYTES: Final = 1024 * 1024
_CONNECT_S: Final = 2.0
_MAKE_S: Final = 0.5
_STATEMENT_S: Final = 30.0
_HUNG_UP: Final = (OSError, TimeoutError, asyncpg.InterfaceError, asyncpg.PostgresConnectionError)

queries = load_queries(files("tally.messaging").joinpath("wal.sql"))

log = structlog.get_logger()


class WalRelay(Relay):
    """Publishes one outbox from the log of its database."""

    def __init__(
        self,
        outbox: Outbox,
        stream: Stream,
        database_url: str,
        signals: Signals,
        clock: Clock,
        *,
        batch_max: int = 256,
        keep_days: float = 7.0,
    ) -> None:
        super().__init__(outbox, stream, database_url, signals, clock, batch_max=batch_max, keep_days=keep_days)
        self._reader: Connection | None = None
        self._leads = False
        self._slot = ""
        self._swept_s = self._marked_s = float("-inf")
        self._unmarked: list[UUID] = []
        self._lag = signals.slot_lag_bytes()

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._leave()

    async def run_once(self) -> int:
        """Publish what the log has, a batch: how many events were acknowledged; 0 while another process reads."""
        try:
            reader = await self._leading()
            return 0 if reader is None else await self._read(reader)
        except _HUNG_UP as error:
            self._leave()
            raise DatabaseUnavailable(str(error) or type(error).__name__, nothing_done=True) from error
        except asyncpg.ObjectInUseError as error:
            raise DatabaseUnavailable(f"another session reads the slot: {error}", nothing_done=True) from error

    async def _read(self, reader: Connection) -> int:
        until = await self._slot_ready(reader)
        done = await self._sweep()
        if until is None:
            await self._make(reader)
            return done
        rows = await self._peek(reader, until)
        if len(rows) >= _ROWS_PER_EVENT * self._batch_max:
            self._woken.set()  # there is more
        events, end = read_changes(row["data"] for row in rows)
        acknowledged, trouble = await self._publish([self._outbox.event(event) for event in events])
        self._published.inc(len(acknowledged))
        self._unmarked += acknowledged
        await self._mark(at_once=trouble is not None)
        if trouble is not None:
            raise trouble
        # Whatever was not acknowledged was refused, and is kept in the table: the log may go.
        if end or until.ahead_bytes > _SKIP_BYTES:
            await reader.fetchval(queries.advance, self._slot, end or until.lsn)
        return done + len(acknowledged)

    async def _peek(self, reader: Connection, until: _Until) -> list[Record]:
        try:
            return await reader.fetch(queries.peek, self._slot, until.lsn, _ROWS_PER_EVENT * self._batch_max)
        except (asyncpg.ObjectNotInPrerequisiteStateError, asyncpg.UndefinedObjectError) as error:
            # The slot is lost, or was made before the publication.
            log.warning("the slot cannot be read", slot=self._slot, reason=str(error))
            await self._drop(reader)
            raise DatabaseUnavailable(f"the slot cannot be read: {error}", nothing_done=True) from error

    # --- what the log did not bring

    async def _sweep(self) -> int:
        now_s = self._clock.monotonic_s()
        if now_s - self._swept_s < _SWEEP_S:
            return 0
        age = timedelta(0) if self._swept_s == float("-inf") else _SWEEP_AGE
        await self._mark(at_once=True)
        total = 0
        while done := await self._publish_waiting(age):
            total += done
        self._swept_s = now_s
        return total

    async def _mark(self, *, at_once: bool) -> None:
        now_s = self._clock.monotonic_s()
        if at_once or len(self._unmarked) >= _MARK_MAX or now_s - self._marked_s >= _MARK_S:
            marked = len(self._unmarked)
            await self._outbox.mark(self._unmarked[:marked])
            del self._unmarked[:marked]
            self._marked_s = now_s

    # --- the slot

    async def _slot_ready(self, reader: Connection) -> _Until | None:
        """How far the log goes now; None if there is no slot to read it by, and the table is read instead."""
        row = await reader.fetchrow(queries.slot, self._slot)
        if row is not None and not row["lost"]:
            self._lag.set(row["lag"])
            return _Until(row["lsn"], row["lag"])
        if row is not None:
            await self._drop(reader)
        self._swept_s = float("-inf")
        return None

    async def _make(self, reader: Connection) -> None:
        """A new slot. PostgreSQL waits for the transactions that are open now; we try again later."""
        if not await reader.fetchval(queries.published):
            await reader.execute(queries.publication)
        try:
            await reader.fetchval(queries.make, self._slot, timeout=_MAKE_S)
        except TimeoutError:
            return
        # Everything written before the slot was there is found in the table.
        self._swept_s = float("-inf")
        self._woken.set()
        log.info("slot made", slot=self._slot)

    async def _drop(self, reader: Connection) -> None:
        log.warning("slot lost; it is made anew, and what is not marked is published from the table", slot=self._slot)
        await reader.execute(queries.drop, self._slot)

    # --- who reads

    async def _leading(self) -> Connection | None:
        """The connection that reads the slot, if that is ours to do."""
        if self._reader is None or self._reader.is_closed():
            self._leave()
            self._reader = await asyncpg.connect(
                self._url,
                timeout=_CONNECT_S,
                command_timeout=_STATEMENT_S,
                server_settings={
                    "application_name": "tally-outbox-wal",
                    "timezone": "UTC",
                    "datestyle": "ISO",
                    **KEEPALIVES,
                },
            )
        if not self._leads:
            self._leads = bool(await self._reader.fetchval(queries.lead, CHANNEL))
            if self._leads:
                self._slot = await self._reader.fetchval(queries.name)
        return self._reader if self._leads else None

    def _leave(self) -> None:
        """The lock goes with the connection."""
        reader, self._reader, self._leads = self._reader, None, False
        self._swept_s = float("-inf")
        if reader is not None:
            with contextlib.suppress(Exception):
                reader.terminate()


def relay_of(
    settings: RelaySettings, database_url: str, outbox: Outbox, stream: Stream, signals: Signals, clock: Clock
) -> Relay:
    """The relay that the settings ask for."""
    kind = WalRelay if settings.relay == "wal" else Relay
    return kind(
        outbox,
        stream,
        database_url,
        signals,
        clock,
        batch_max=settings.relay_batch_max,
        keep_days=settings.outbox_keep_days,
    )


@dataclass(frozen=True, slots=True)
class _Until:
    """The end of the log when it was looked at, and how far the slot is behind it."""

    lsn: str
    ahead_bytes: int


# --- pgoutput ------------------------------------------------------------------------------------------------------
# PostgreSQL's documentation, "Logical Replication Message Formats", version 1 of the protocol.


def read_changes(messages: Iterable[bytes]) -> tuple[list[dict[str, Any]], str | None]:
    """The rows that were inserted, in the order of their commits, and the place in the log after the last of these."""
    columns: list[str] = []
    rows: list[dict[str, Any]] = []
    end: str | None = None
    for message in messages:
        match message[:1]:
            case b"R":
                columns = _columns(message)
            case b"I":
                rows.append(_row(columns, message))
            case b"C":
                (lsn,) = struct.unpack_from("!Q", message, 10)
                end = f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
            case _:
                pass  # where a transaction begins, and what types are called
    return rows, end


def _columns(message: bytes) -> list[str]:
    """The names of a relation's columns."""
    at = message.index(b"\0", 5) + 1  # after the schema
    at = message.index(b"\0", at) + 2  # after the name and the replica identity
    (count,) = struct.unpack_from("!H", message, at)
    at += 2
    names: list[str] = []
    for _ in range(count):
        end = message.index(b"\0", at + 1)
        names.append(message[at + 1 : end].decode())
        at = end + 9  # the type and its modifier
    return names


def _row(columns: Sequence[str], message: bytes) -> dict[str, Any]:
    """An inserted row; values are text on the wire."""
    at = 8
    row: dict[str, Any] = {}
    for name in columns:
        kind = message[at : at + 1]
        at += 1
        if kind == b"t":
            (length,) = struct.unpack_from("!I", message, at)
            at += 4
            row[name] = _READ.get(name, str)(message[at : at + length].decode())
            at += length
        else:
            row[name] = None
    return row


_READ: Final[Mapping[str, Any]] = {
    "id": UUID,
    "subject": UUID,
    "inc": UUID,
    "version": int,
    "seq": int,
    "data": msgspec.json.decode,
    "at": datetime.fromisoformat,
}
