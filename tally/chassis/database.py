"""The service's own PostgreSQL: its connections, what may go wrong with them, and the SQL it runs by name.

    rows = await database.fetch(queries.list_authors, limit)     one statement, autocommit, one round trip

    async with database.transaction() as tx:                     BEGIN … COMMIT, or ROLLBACK
        await tx.execute(queries.lock)
        await tx.fetch(queries.record, *columns)

Each call is bounded by the deadline of the current request, waits a bounded time for a connection, and either
answers, raises what the statement did wrong (asyncpg's errors), or raises a `DatabaseFault`. A fault says
whether anything can have been done: `nothing_done` is proof; without it the outcome is unknown.

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
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Final, Literal, Protocol, TypeAlias, TypeVar

import asyncpg
import msgspec
import structlog

from tally.chassis import context
from tally.chassis.clock import Clock, SystemClock
from tally.chassis.problems import Problem
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


class DatabaseFault(Exception):
    """The database could not do it. `nothing_done`: it surely did none of it; otherwise that is unknown."""

    def __init__(self, reason: str, *, nothing_done: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.nothing_done = nothing_done


class PoolExhausted(DatabaseFault):
    """No connection became free in time."""


class DatabaseUnavailable(DatabaseFault):
    """PostgreSQL is away, refuses, or hung up."""


class DatabaseTimeout(DatabaseFault, TimeoutError):
    """The deadline passed, or PostgreSQL's own statement timeout did."""


class Contended(DatabaseFault):
    """It lost against others: a lock timeout, a deadlock, a serialization failure. Trying again may help."""


def problem(fault: DatabaseFault, *, reading: bool) -> Problem:
    """What a caller is told. `reading`: the request only reads, so there is no outcome to be unknown."""
    if not (fault.nothing_done or reading):
        return Problem("outcome-unknown", "The database did not say whether it was done.")
    match fault:
        case PoolExhausted():
            return Problem("overloaded", "All database connections are busy.")
        case DatabaseTimeout():
            return Problem("deadline-exceeded", "The database did not answer in time.")
        case Contended():
            return Problem("contended", "Others are changing the same rows.")
        case _:
            return Problem("service-unavailable", "The service's database is not available.")


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
    """The connections to one database. `start` before use, `close` after."""

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
            if (fault := _fault(error, connection, nothing_done=False)) is not None:
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
            if (fault := _fault(error, connection, nothing_done=False)) is not None:
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
            if (fault := _fault(error, connection, nothing_done=not committing)) is not None:
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
            if _means_unreachable(error):
                raise DatabaseUnavailable(_reason(error), nothing_done=True) from error
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
            if _means_unreachable(error):
                self._now(_reason(error))
                raise DatabaseUnavailable(_reason(error), nothing_done=True) from error
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


# --- what went wrong -----------------------------------------------------------------------------------------------

# By class of SQLSTATE, or by the whole of it. PostgreSQL has answered, so the statement was rolled back.
_LOST_AGAINST_OTHERS: Final = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    # A migration changed what a prepared statement returns; the next try prepares it anew.
    asyncpg.InvalidCachedStatementError,
    asyncpg.exceptions.OutdatedSchemaCacheError,
)
_CANNOT_NOW: Final = (
    asyncpg.InsufficientResourcesError,  # disk full, out of memory, too many connections
    asyncpg.ReadOnlySQLTransactionError,  # a standby: the primary is elsewhere
    asyncpg.CannotConnectNowError,
    asyncpg.exceptions.PostgresIOError,
)
# PostgreSQL, or the network, went away in the middle: the statement may have been carried out.
_HUNG_UP: Final = (
    OSError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


def _fault(error: BaseException, connection: Connection, *, nothing_done: bool) -> DatabaseFault | None:
    """The fault that `error` means; None if it is the statement's own (a violated constraint, a bug)."""
    if isinstance(error, DatabaseFault):
        return None
    if isinstance(error, asyncpg.QueryCanceledError):
        return DatabaseTimeout("PostgreSQL's statement timeout", nothing_done=True)
    if isinstance(error, TimeoutError):
        return DatabaseTimeout("no answer before the deadline", nothing_done=nothing_done)
    if isinstance(error, _LOST_AGAINST_OTHERS):
        return Contended(_reason(error), nothing_done=True)
    if isinstance(error, _CANNOT_NOW):
        return DatabaseUnavailable(_reason(error), nothing_done=True)
    if isinstance(error, _HUNG_UP) or (isinstance(error, asyncpg.InterfaceError) and connection.is_closed()):
        return DatabaseUnavailable(_reason(error), nothing_done=nothing_done)
    return None


def _means_unreachable(error: BaseException) -> bool:
    """Of what may happen while connecting: all but an address that makes no sense, and being cancelled."""
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return False
    return isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError)


def _reason(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)


# --- named SQL -----------------------------------------------------------------------------------------------------

_HEADER: Final = re.compile(r"^--[ \t]*name:[ \t]*(\S+)[ \t]*$", re.MULTILINE)
_PLACEHOLDER: Final = re.compile(r"\{\{\s*(\w+)\s*\}\}")


class Queries:
    """The queries of a folder or file, as attributes: `queries.record` is the SQL text."""

    def __init__(self, source: str, texts: Mapping[str, str]) -> None:
        self._source = source
        self._texts = dict(texts)

    def __getattr__(self, name: str) -> str:
        try:
            return self._texts[name]
        except KeyError:
            known = ", ".join(sorted(self._texts))
            raise AttributeError(f"there is no query {name!r} in {self._source}, only {known}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __repr__(self) -> str:
        return f"<Queries {self._source}: {', '.join(self._texts)}>"


def load_queries(source: Path | Traversable, **substitutions: str) -> Queries:
    """Reads the `.sql` file, or all of the folder, that `source` is (a path, or `importlib.resources.files(…)`).

        -- name: live_halves
        -- The live halves of some epochs, in the order of their operations.
        SELECT … FROM {{relationship}}_half WHERE …;

    Each query has a name and a sentence. `{{x}}` is replaced by the substitution `x`: text of the developer's, as a
    table's name; a value always goes in as a parameter. The name stays in the SQL as a comment, for
    pg_stat_statements and the server's log.
    """
    files = (
        sorted((f for f in source.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
        if source.is_dir()
        else [source]
    )
    texts: dict[str, str] = {}
    for file in files:
        for name, text in _blocks(file.name, file.read_text(encoding="utf-8")):
            if name in texts:
                raise ValueError(f"{file.name}: there is another query named {name!r}")
            texts[name] = f"/* {name} */ " + substituted(text, f"{file.name}: {name}", substitutions)
    return Queries(source.name, texts)


def substituted(text: str, place: str, substitutions: Mapping[str, str]) -> str:
    """`text` with every `{{x}}` replaced; ValueError names `place` where there is no substitution for one."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in substitutions:
            raise ValueError(f"{place}: nothing was given for {{{{{match[1]}}}}}")
        return substitutions[match[1]]

    return _PLACEHOLDER.sub(value, text)


def _blocks(file: str, text: str) -> Iterator[tuple[str, str]]:
    """Name and SQL of each block, without its sentence and the final semicolon."""
    before, *parts = _HEADER.split(text)
    if any(line.strip() and not line.startswith("--") for line in before.splitlines()):
        raise ValueError(f"{file}: there is SQL before the first `-- name:`")
    for name, block in zip(parts[::2], parts[1::2], strict=True):
        if not name.isidentifier():
            raise ValueError(f"{file}: {name!r} cannot be the name of a query")
        lines = block.strip().splitlines()
        if not lines or not lines[0].startswith("--"):
            raise ValueError(f"{file}: {name} has no sentence that says what it is for")
        while lines and lines[0].startswith("--"):
            del lines[0]
        if not (sql := "\n".join(lines).strip().rstrip(";").rstrip()):
            raise ValueError(f"{file}: {name} has no SQL")
        yield name, sql
