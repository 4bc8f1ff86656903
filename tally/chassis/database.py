"""The service's own PostgreSQL: its connections.

    rows = await database.fetch(queries.list_authors, limit)     one statement, autocommit, one round trip

    async with database.transaction() as tx:                     BEGIN … COMMIT, or ROLLBACK
        await tx.execute(queries.lock)
        await tx.fetch(queries.record, *columns)

Each call is bounded by the deadline of the current request, waits a bounded time for a connection, and either
answers, raises what the statement did wrong (asyncpg's errors), or raises a `DatabaseFault` (`database_faults.py`).

**The connections are kept here, not in asyncpg's pool.** That one resets each connection with a query (a quarter
of PostgreSQL's CPU), makes a task per release (80 µs of ours), and lets the caller of a timed-out statement wait until
the server has acknowledged the cancel, which a stopped server never does. Here a connection whose statement was
abandoned is settled in the background, within a bound, or closed; its caller is gone by then. What follows: state
of a session (SET, session advisory locks, LISTEN) would leak to the next user of the connection. Use
transaction-level locks and `SET LOCAL`.

A connection that broke is replaced when next one is needed, so the service recovers by itself when PostgreSQL
does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any, Final, Literal, Protocol, Self, TypeAlias, TypeVar

import asyncpg
import msgspec
import structlog

from tally.chassis import context
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.database_faults import (
    DatabaseFault,
    DatabaseTimeout,
    DatabaseUnavailable,
    PoolExhausted,
    fault_of,
    means_unreachable,
    reason_of,
)
from tally.chassis.signals import Signals

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"
Record: TypeAlias = asyncpg.Record
Isolation = Literal["read committed", "repeatable read", "serializable"]
R = TypeVar("R")

# A process that vanished with its machine does not hang up. What its sessions hold (an advisory lock, above all) is
# free again after this many seconds and tries, and not after the two hours that PostgreSQL waits by itself; and after
# as many milliseconds if it vanished with an answer on its way, which keepalives do not look after.
KEEPALIVES: Final = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "2",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "11000",
}
# How long an abandoned statement may take to acknowledge its cancel before its connection is closed instead.
_SETTLE_S: Final = 1.0
# How long the caller of a failed transaction waits for its rollback; it goes on in the background.
_ROLLBACK_S: Final = 0.25
# Between tries while PostgreSQL is away: doubled each time, with jitter.
_BACKOFF_S: Final = (0.1, 2.0)

_log = structlog.get_logger()


class DatabaseSettings(Protocol):
    """The fields of a service's settings that `Database.of` reads."""

    @property
    def database_url(self) -> str: ...
    @property
    def pool_min(self) -> int: ...
    @property
    def pool_max(self) -> int: ...
    @property
    def pool_wait_s(self) -> float: ...
    @property
    def request_deadline_s(self) -> float: ...


class Database:
    """The connections to one database. `start` before use, `close` after; `async with` does both."""

    def __init__(
        self,
        url: str,
        name: str,
        *,
        pool_min: int = 1,
        pool_max: int = 10,
        pool_wait_s: float = 0.5,
        statement_timeout_s: float = 2.0,
        connect_timeout_s: float = 2.0,
        signals: Signals | None = None,
        clock: Clock | None = None,
    ) -> None:
        """`url` may name a UNIX socket: `postgresql://user@/database?host=/run/postgresql`. `statement_timeout_s`
        is PostgreSQL's own limit, for statements outside a request and for those that we cannot cancel any more;
        locks are waited for half as long."""
        self._url = url
        self._name = name
        self._pool_min = min(pool_min, pool_max)
        self._pool_max = pool_max
        self._pool_wait_s = pool_wait_s
        self._connect_timeout_s = connect_timeout_s
        self._statement_timeout_s = statement_timeout_s
        self._clock = clock or SystemClock()
        self._refused = (signals or Signals(name)).database_refused_total()
        self._idle: list[Connection] = []
        # Connections that exist or are being made, wherever they are: never more than `pool_max`.
        self._open = 0
        # Who waits for one, first come first served. The answer None means: make one in the place I leave you.
        self._waiting: dict[asyncio.Future[Connection | None], None] = {}
        self._settling: set[asyncio.Task[None]] = set()
        self._closed = False
        self._trouble = ""
        #: Sees each new connection before it is used: whoever answers at the address may have become somebody else.
        self.admit: Callable[[Connection], Awaitable[None]] | None = None
        if signals is not None:
            self._report(signals)

    @classmethod
    def of(cls, settings: DatabaseSettings, name: str, signals: Signals, clock: Clock | None = None) -> Database:
        return cls(
            settings.database_url,
            name,
            pool_min=settings.pool_min,
            pool_max=settings.pool_max,
            pool_wait_s=settings.pool_wait_s,
            statement_timeout_s=settings.request_deadline_s,
            signals=signals,
            clock=clock,
        )

    # --- life --------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Returns once PostgreSQL answers, however long that takes."""
        pause_s = _BACKOFF_S[0]
        while self._open < max(1, self._pool_min):
            try:
                self._idle.append(await self._connect())
            except DatabaseUnavailable:
                await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                pause_s = min(pause_s * 2, _BACKOFF_S[1])

    async def close(self) -> None:
        """Closes what is idle, and what is in use as soon as it is given back."""
        self._closed = True
        for task in self._settling:
            task.cancel()
        await asyncio.gather(*self._settling, return_exceptions=True)
        idle, self._idle = self._idle, []
        self._open -= len(idle)
        await asyncio.gather(*(connection.close(timeout=_SETTLE_S) for connection in idle), return_exceptions=True)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exit: object) -> None:
        await self.close()

    async def check(self) -> None:
        """Raises unless PostgreSQL answers; for readiness. All connections being busy is not being away."""
        with contextlib.suppress(PoolExhausted):
            await self.fetchval("SELECT 1")

    # --- one statement -----------------------------------------------------------------------------------------

    async def fetch(self, query: str, *args: object) -> list[Record]:
        return await self._once(asyncpg.Connection.fetch, query, args)

    async def fetchrow(self, query: str, *args: object) -> Record | None:
        return await self._once(asyncpg.Connection.fetchrow, query, args)

    async def fetchval(self, query: str, *args: object) -> Any:
        return await self._once(asyncpg.Connection.fetchval, query, args)

    async def execute(self, query: str, *args: object) -> str:
        """Returns PostgreSQL's tag, for example `UPDATE 3`."""
        return await self._once(asyncpg.Connection.execute, query, args)

    async def _once(self, method: Callable[..., Coroutine[Any, Any, R]], query: str, args: tuple[object, ...]) -> R:
        connection = await self._take()
        try:
            result = await method(connection, query, *args, timeout=self._left_s())
        except BaseException as error:
            self._give_after(connection, error)
            if (fault := fault_of(error, connection, nothing_done=False)) is not None:
                raise fault from error
            raise
        self._give(connection)
        return result

    # --- several statements ------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for a block of autocommit statements. The block ends with the deadline."""
        connection = await self._take()
        try:
            async with asyncio.timeout(self._left_s()):
                yield connection
        except BaseException as error:
            self._give_after(connection, error)
            if (fault := fault_of(error, connection, nothing_done=False)) is not None:
                raise fault from error
            raise
        self._give(connection)

    @contextlib.asynccontextmanager
    async def transaction(
        self, isolation: Isolation = "read committed", *, read_only: bool = False
    ) -> AsyncIterator[Connection]:
        """A transaction around the block: committed at its end, rolled back if anything is raised in it.

        The block ends with the deadline. Use the connection's own methods inside, but not its `transaction()`:
        savepoints are SQL here.
        """
        connection = await self._take()
        committing = False
        try:
            async with asyncio.timeout(self._left_s()):
                await connection.execute(_begin(isolation, read_only))
                yield connection
                committing = True
                await connection.execute("COMMIT")
        except BaseException as error:
            rollback = self._give_after(connection, error)
            if rollback is not None and not isinstance(error, asyncio.CancelledError | TimeoutError):
                # What the block locked is free when the caller goes on; unless PostgreSQL just stopped answering.
                await asyncio.wait({rollback}, timeout=_ROLLBACK_S)
            if (fault := fault_of(error, connection, nothing_done=not committing)) is not None:
                raise fault from error
            raise
        self._give(connection)

    async def session(self) -> Connection:
        """A connection beside the others, for what belongs to a session (an advisory lock, LISTEN): the caller's to
        close. Raises `DatabaseUnavailable`."""
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                return await self._connected()
        except Exception as error:
            if means_unreachable(error):
                raise DatabaseUnavailable(reason_of(error), nothing_done=True) from error
            raise

    # --- the connections ---------------------------------------------------------------------------------------

    def _left_s(self) -> float | None:
        """Seconds until the current deadline; None where there is none."""
        deadline = context.deadline()
        if deadline is None:
            return None
        left_s = deadline.left_s(self._clock.monotonic_s())
        if left_s == 0.0:
            raise DatabaseTimeout("the deadline has passed", nothing_done=True)
        return left_s

    async def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._open -= 1
        left_s = self._left_s()
        if self._open < self._pool_max:
            return await self._connect(left_s)
        return await self._wait(left_s)

    async def _wait(self, left_s: float | None) -> Connection:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Connection | None] = loop.create_future()
        wait_s = self._pool_wait_s if left_s is None else min(self._pool_wait_s, left_s)
        timer = loop.call_later(wait_s, self._refuse, answer)
        self._waiting[answer] = None
        try:
            connection = await answer
        except asyncio.CancelledError:
            # It may have been handed over in the same instant; then it must not be lost.
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self._pass_on(answer.result())
            raise
        finally:
            timer.cancel()
            self._waiting.pop(answer, None)
        return await self._connect(left_s, place_kept=True) if connection is None else connection

    def _refuse(self, answer: asyncio.Future[Connection | None]) -> None:
        if not answer.done():
            self._refused.inc()
            reason = f"none of {self._pool_max} connections became free"
            answer.set_exception(PoolExhausted(reason, nothing_done=True))

    def _give(self, connection: Connection) -> asyncio.Task[None] | None:
        """Takes back a connection; the task is that which settles it, where that is needed."""
        if connection.is_closed() or self._closed:
            connection.terminate()
            self._pass_on(None)
        elif connection.is_in_transaction():
            return self._settle(connection)
        else:
            self._pass_on(connection)
        return None

    def _give_after(self, connection: Connection, error: BaseException) -> asyncio.Task[None] | None:
        """Takes back a connection whose use ended with `error`."""
        if isinstance(error, asyncpg.InternalClientError):
            connection.terminate()  # PostgreSQL has said good-bye on it, and hung up by the time we wanted to speak
        abandoned = isinstance(error, TimeoutError) or not isinstance(error, Exception)
        if abandoned and not isinstance(error, DatabaseFault) and not connection.is_closed():
            return self._settle(connection)
        return self._give(connection)

    def _pass_on(self, connection: Connection | None) -> None:
        """To whoever has waited longest, else to the idle ones. None: a place for a connection became free."""
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(connection)
                return
        if connection is None:
            self._open -= 1
        else:
            self._idle.append(connection)

    def _settle(self, connection: Connection) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(self._settled(connection))
        self._settling.add(task)
        task.add_done_callback(self._settling.discard)
        return task

    async def _settled(self, connection: Connection) -> None:
        """Ends what was abandoned on the connection, and gives it back; or closes it.

        ROLLBACK waits for the cancel that asyncpg has sent, ends a transaction, and outside of one does nothing.
        """
        try:
            async with asyncio.timeout(_SETTLE_S):
                await connection.execute("ROLLBACK")
        except Exception as error:
            connection.terminate()
            self._pass_on(None)
            if isinstance(error, TimeoutError):
                self._distrust_idle()
        except asyncio.CancelledError:
            connection.terminate()
            self._pass_on(None)
            raise
        else:
            self._give(connection)

    def _distrust_idle(self) -> None:
        """The server did not even acknowledge a cancel: it hangs, or its address is stale. Others would each cost
        a caller its deadline to find out."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()
            self._pass_on(None)

    async def _connect(self, left_s: float | None = None, *, place_kept: bool = False) -> Connection:
        """A new connection; the place for it is taken first, and given up if it cannot be made."""
        self._open += not place_kept
        timeout_s = self._connect_timeout_s if left_s is None else min(self._connect_timeout_s, left_s)
        try:
            if self._closed:
                raise DatabaseUnavailable("the service is stopping", nothing_done=True)
            async with asyncio.timeout(timeout_s):
                connection = await self._connected()
        except BaseException as error:
            self._pass_on(None)
            if means_unreachable(error):
                self._now(reason_of(error))
                raise DatabaseUnavailable(reason_of(error), nothing_done=True) from error
            raise
        self._now("")
        return connection

    def _now(self, trouble: str) -> None:
        """Logs what is wrong with PostgreSQL when that changes, not each time that it is found."""
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble:
            _log.warning("database unreachable", database=self._name, reason=trouble)
        else:
            _log.info("database reachable", database=self._name)

    async def _connected(self) -> Connection:
        connection = await asyncpg.connect(
            self._url,
            server_settings=self._server_settings(),
            command_timeout=self._statement_timeout_s + _SETTLE_S,
            # Named queries are few and used for ever: no clock per statement.
            max_cached_statement_lifetime=0,
        )
        try:
            for kind in ("json", "jsonb"):
                await connection.set_type_codec(
                    kind, schema="pg_catalog", encoder=_to_json, decoder=msgspec.json.decode
                )
            if self.admit is not None:
                await self.admit(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _server_settings(self) -> dict[str, str]:
        statement_ms = round(self._statement_timeout_s * 1000)
        return {
            "application_name": f"tally-{self._name}",
            **KEEPALIVES,
            "statement_timeout": str(statement_ms),
            "lock_timeout": str(max(1, statement_ms // 2)),
            # A transaction that waits for *us* holds its locks for no longer than this.
            "idle_in_transaction_session_timeout": str(statement_ms),
            # Whatever the database's default is: under any stricter level CLOSE would not see what it waited for.
            "default_transaction_isolation": "read committed",
            # Our statements are short; compiling them costs more than it saves.
            "jit": "off",
            # They look up keys, so the plan does not depend on the values; planning them each time costs more.
            "plan_cache_mode": "force_generic_plan",
        }

    def _report(self, signals: Signals) -> None:
        signals.database_waiting().set_function(lambda: len(self._waiting))
        connections = signals.database_connections
        connections("idle").set_function(lambda: len(self._idle))
        connections("settling").set_function(lambda: len(self._settling))
        connections("in_use").set_function(lambda: self._open - len(self._idle) - len(self._settling))

    def __repr__(self) -> str:
        return (
            f"<Database {self._name} open={self._open}/{self._pool_max} idle={len(self._idle)} "
            f"waiting={len(self._waiting)}{' closed' if self._closed else ''}>"
        )


def _begin(isolation: Isolation, read_only: bool) -> str:
    # PostgreSQL's default needs no word.
    level = "" if isolation == "read committed" else f" ISOLATION LEVEL {isolation.upper()}"
    return f"BEGIN{level}{' READ ONLY' if read_only else ''}"


def _to_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def storable(said: str) -> str:
    """What others said (an error that quotes a message, a server's words), as PostgreSQL can store it.

    A question mark stands for NUL and for half of a surrogate pair; it ends after 1,000 characters.
    """
    return said[:_SAID_MAX].encode("utf-8", "replace").decode().replace("\0", "?")


_SAID_MAX: Final = 1000
