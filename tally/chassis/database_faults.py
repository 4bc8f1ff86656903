"""What may go wrong with the database: what asyncpg raises, as one of four faults, and what a caller is told of it.

A fault says whether anything can have been done: `nothing_done` is proof; without it the outcome is unknown.
"""

from __future__ import annotations

from typing import Final

import asyncpg

from tally.chassis.problems import Problem

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


def fault_of(
    error: BaseException, connection: asyncpg.Connection[asyncpg.Record], *, nothing_done: bool
) -> DatabaseFault | None:
    """The fault that `error` means; None if it is the statement's own (a violated constraint, a bug)."""
    if isinstance(error, DatabaseFault):
        return None
    if isinstance(error, asyncpg.QueryCanceledError):
        return DatabaseTimeout("PostgreSQL's statement timeout", nothing_done=True)
    if isinstance(error, TimeoutError):
        return DatabaseTimeout("no answer before the deadline", nothing_done=nothing_done)
    if isinstance(error, _LOST_AGAINST_OTHERS):
        return Contended(reason_of(error), nothing_done=True)
    if isinstance(error, _CANNOT_NOW):
        return DatabaseUnavailable(reason_of(error), nothing_done=True)
    if isinstance(error, _HUNG_UP) or (isinstance(error, asyncpg.InterfaceError) and connection.is_closed()):
        return DatabaseUnavailable(reason_of(error), nothing_done=nothing_done)
    return None


def means_unreachable(error: BaseException) -> bool:
    """Of what may happen while connecting: all but an address that makes no sense, and being cancelled."""
    if isinstance(error, asyncpg.exceptions.ClientConfigurationError):
        return False
    return isinstance(error, OSError | asyncpg.PostgresError | asyncpg.InterfaceError)


def reason_of(error: BaseException) -> str:
    return str(error) or ("no answer in time" if isinstance(error, TimeoutError) else type(error).__name__)
