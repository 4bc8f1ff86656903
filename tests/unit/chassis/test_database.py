"""The service's connections to its database, on a real PostgreSQL: what is bounded, what is told, what recovers."""

import asyncio
import os
import random
import signal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from tally.chassis import context, logs
from tally.chassis.database import KEEPALIVES, Database, storable
from tally.chassis.database_faults import (
    Contended,
    DatabaseFault,
    DatabaseTimeout,
    DatabaseUnavailable,
    PoolExhausted,
    problem,
)
from tally.chassis.queries import load_queries
from tally.chassis.signals import Signals
from tally.local.postgres import EmbeddedPostgres
from tally.resilience.deadline import Deadline
from tests.support.folders import scratch_folder


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    database = Database(url, "test", **options)
    await database.start()
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def database(dsn: Callable[[], str]) -> AsyncIterator[Database]:
    async with opened(dsn(), pool_max=4) as found:
        yield found


@pytest.fixture
def server() -> Iterator[EmbeddedPostgres]:
    """One that a test may stop."""
    with scratch_folder() as folder:
        found = EmbeddedPostgres(folder / "postgres", durable=False)
        try:
            found.start()
            found.create_database("own", "tally")
            yield found
        finally:
            found.destroy()


def within(seconds: float) -> context.use:
    """A request with this much time."""
    return context.use(context.fresh(Deadline.after(seconds, time.monotonic())))


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():  # noqa: ASYNC110 - the state is PostgreSQL's
            await asyncio.sleep(0.005)


async def settled(database: Database, idle: int | None = None) -> None:
    """Waits until nothing is being settled, and so many connections idle (None: all)."""

    async def is_settled() -> bool:
        wanted = database._open if idle is None else idle
        return len(database._idle) == wanted and not database._settling

    await until(is_settled)


# --- one statement


async def test_a_statement_takes_one_call(database: Database) -> None:
    assert await database.fetchval("SELECT 1 + $1::int", 1) == 2
    row = await database.fetchrow("SELECT 1 AS a, 'x' AS b")
    assert row is not None
    assert dict(row) == {"a": 1, "b": "x"}
    assert await database.fetchrow("SELECT 1 WHERE false") is None
    assert [row["n"] for row in await database.fetch("SELECT n FROM generate_series(1, 3) n")] == [1, 2, 3]
    await database.execute("CREATE TABLE t (id int)")
    assert await database.execute("INSERT INTO t SELECT generate_series(1, 3)") == "INSERT 0 3"


async def test_json_and_uuids_are_python_values(database: Database) -> None:
    some = uuid.uuid4()
    row = await database.fetchrow("SELECT $1::jsonb AS j, $2::uuid AS u", {"a": [1, None]}, some)
    assert row is not None
    assert row["j"] == {"a": [1, None]}
    assert row["u"] == some
    assert isinstance(row["u"], uuid.UUID)


async def test_a_session_of_a_process_that_vanished_ends_within_seconds(database: Database) -> None:
    session = await database.session()
    try:
        setting = "SELECT setting::int FROM pg_settings WHERE name = $1"
        told = [await session.fetchval(setting, name) for name in KEEPALIVES]
    finally:
        await session.close()
    idle_s, interval_s, count, unanswered_ms = told
    assert 0 < idle_s + interval_s * count <= 15
    assert 0 < unanswered_ms <= 15_000


async def test_the_server_knows_our_name_and_our_limits(database: Database) -> None:
    names = ("application_name", "statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "jit")
    shown = [await database.fetchval(f"SHOW {name}") for name in names]
    assert shown == ["tally-test", "2s", "1s", "2s", "off"]


async def test_a_released_connection_is_not_reset(database: Database) -> None:
    pid = await database.fetchval("SELECT pg_backend_pid() /* mine */")
    async with opened(database._url) as other:
        last = await other.fetchval("SELECT query FROM pg_stat_activity WHERE pid = $1", pid)
    assert last == "SELECT pg_backend_pid() /* mine */"


async def test_a_connection_is_used_again(database: Database) -> None:
    assert len({await database.fetchval("SELECT pg_backend_pid()") for _ in range(20)}) == 1


async def test_a_unix_socket_can_be_named_in_the_address() -> None:
    with scratch_folder() as folder:
        sockets = folder / "s"
        sockets.mkdir()
        if os.getuid() == 0:
            os.chown(sockets, 65534, 65534)
        server = EmbeddedPostgres(folder / "postgres", durable=False)
        server._settings["unix_socket_directories"] = str(sockets)
        try:
            server.start()
            server.create_database("own", "tally")
            password = server.dsn("own", "tally").split(":")[2].split("@")[0]
            url = f"postgresql://tally:{password}@/own?host={sockets}&port={server.port}"
            async with opened(url) as database:
                assert await database.fetchval("SELECT inet_server_addr()") is None
        finally:
            server.destroy()


# --- what goes wrong with a statement


async def test_the_statements_own_error_is_asyncpgs(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    await database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(asyncpg.UniqueViolationError):
        await database.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(asyncpg.UndefinedTableError):
        await database.fetch("SELECT * FROM nothing")
    with pytest.raises(asyncpg.InterfaceError, match="expects 1 argument"):
        await database.fetch("SELECT $1::int", 1, 2)
    with pytest.raises(asyncpg.DataError):
        await database.fetch("SELECT $1::int", "many")
    assert await database.fetchval("SELECT count(*) FROM t") == 1
    await settled(database, idle=1)


async def test_a_statement_ends_with_the_deadline_and_its_connection_lives_on(database: Database) -> None:
    pid = await database.fetchval("SELECT pg_backend_pid()")
    begun_s = time.monotonic()
    with within(0.2), pytest.raises(DatabaseTimeout) as raised:
        await database.execute("SELECT pg_sleep(30)")
    assert 0.15 < time.monotonic() - begun_s < 1.0
    assert not raised.value.nothing_done
    await settled(database, idle=1)
    assert await database.fetchval("SELECT pg_backend_pid()") == pid


async def test_late_work_is_refused_without_being_done(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int)")
    with within(-1.0):
        with pytest.raises(DatabaseTimeout) as raised:
            await database.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(DatabaseTimeout):
            async with database.transaction() as tx:
                await tx.execute("INSERT INTO t VALUES (1)")
    assert raised.value.nothing_done
    assert await database.fetchval("SELECT count(*) FROM t") == 0


async def test_postgresqls_own_timeout_holds_where_there_is_no_deadline(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), statement_timeout_s=0.2) as database:
        with pytest.raises(DatabaseTimeout) as raised:
            await database.execute("SELECT pg_sleep(30)")
    assert raised.value.nothing_done


async def test_a_cancelled_caller_leaves_a_working_connection(database: Database) -> None:
    task = asyncio.create_task(database.execute("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await settled(database, idle=1)
    assert await database.fetchval("SELECT 1") == 1


async def test_a_lock_that_others_hold_is_contention(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), statement_timeout_s=0.4, pool_max=2) as database:
        await database.execute("CREATE TABLE t (id int)")
        async with database.transaction() as tx:
            await tx.execute("LOCK TABLE t")
            with pytest.raises(Contended) as raised:
                await database.fetch("SELECT * FROM t")
    assert raised.value.nothing_done


async def test_a_lost_race_between_transactions_is_contention(database: Database) -> None:
    await database.execute("CREATE TABLE t (n int)")
    await database.execute("INSERT INTO t VALUES (0)")
    with pytest.raises(Contended):
        async with database.transaction("repeatable read") as tx:
            await tx.fetchval("SELECT n FROM t")
            await database.execute("UPDATE t SET n = n + 1")
            await tx.execute("UPDATE t SET n = n + 1")
    assert await database.fetchval("SELECT n FROM t") == 1


async def test_a_read_only_database_is_unavailable(dsn: Callable[[], str]) -> None:
    url = dsn()
    async with opened(url) as database:
        await database.execute("CREATE TABLE t (n int)")
        async with database.acquire() as connection:
            await connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(DatabaseUnavailable) as raised:
            await database.execute("INSERT INTO t VALUES (1)")
        assert raised.value.nothing_done


async def test_a_connection_that_breaks_in_the_middle_leaves_the_outcome_unknown(database: Database) -> None:
    task = asyncio.create_task(database.execute("SELECT pg_sleep(30)"))
    async with opened(database._url) as other:

        async def is_broken() -> bool:
            sleeper = "FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)'"
            return bool(await other.fetchval(f"SELECT count(pg_terminate_backend(pid)) {sleeper}"))

        await until(is_broken)
    with pytest.raises(DatabaseUnavailable) as raised:
        await task
    assert not raised.value.nothing_done
    assert await database.fetchval("SELECT 1") == 1


async def test_an_address_where_nobody_is_proves_that_nothing_was_done() -> None:
    database = Database("postgresql://tally@127.0.0.1:9/own", "test")
    with logs.capture() as events:
        for _ in range(3):
            with pytest.raises(DatabaseUnavailable) as raised:
                await database.fetchval("SELECT 1")
    assert raised.value.nothing_done
    assert [event["event"] for event in events] == ["database unreachable"]
    await database.close()


async def test_an_address_that_makes_no_sense_is_no_outage() -> None:
    database = Database("mysql://x", "test")
    with pytest.raises(asyncpg.exceptions.ClientConfigurationError):
        await database.start()


# --- transactions


async def test_a_transaction_is_committed_at_the_end_of_its_block(database: Database) -> None:
    async with database.transaction() as tx:
        await tx.execute("CREATE TABLE t (id int)")
        await tx.execute("INSERT INTO t VALUES (1)")
    assert await database.fetchval("SELECT count(*) FROM t") == 1


async def test_whatever_is_raised_in_the_block_rolls_back(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int)")
    with pytest.raises(LookupError):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            raise LookupError
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            await tx.execute("SELECT 1/0")
    assert await database.fetchval("SELECT count(*) FROM t") == 0
    await settled(database, idle=1)


async def test_what_the_block_locked_is_free_when_it_has_failed(database: Database) -> None:
    for _ in range(10):
        with pytest.raises(LookupError):
            async with database.transaction() as tx:
                await tx.execute("SELECT pg_advisory_xact_lock(1)")
                raise LookupError
        async with opened(database._url) as other:
            assert await other.fetchval("SELECT pg_try_advisory_lock(1)")


async def test_isolation_and_read_only_are_as_asked_for(database: Database) -> None:
    async with database.transaction("serializable", read_only=True) as tx:
        assert await tx.fetchval("SHOW transaction_isolation") == "serializable"
        assert await tx.fetchval("SHOW transaction_read_only") == "on"
    async with database.transaction() as tx:
        assert await tx.fetchval("SHOW transaction_isolation") == "read committed"
        assert await tx.fetchval("SHOW transaction_read_only") == "off"


async def test_a_transaction_that_outlives_the_deadline_has_done_nothing(database: Database) -> None:
    await database.execute("CREATE TABLE t (id int)")
    with within(0.2), pytest.raises(DatabaseTimeout) as raised:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
            await asyncio.sleep(30)
    assert raised.value.nothing_done
    await settled(database, idle=1)
    assert await database.fetchval("SELECT count(*) FROM t") == 0


async def test_a_commit_without_an_answer_leaves_the_outcome_unknown(database: Database) -> None:
    await database.execute("""
        CREATE TABLE t (id int);
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(30); RETURN NULL; END';
        CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION slow();
    """)
    with within(0.3), pytest.raises(DatabaseTimeout) as raised:
        async with database.transaction() as tx:
            await tx.execute("INSERT INTO t VALUES (1)")
    assert not raised.value.nothing_done


async def test_a_transaction_left_open_by_hand_is_ended(database: Database) -> None:
    async with database.acquire() as connection:
        await connection.execute("BEGIN")
    await settled(database, idle=1)
    assert not database._idle[0].is_in_transaction()


# --- the connections


async def test_no_more_connections_than_allowed_and_a_bounded_wait_for_one(dsn: Callable[[], str]) -> None:
    signals = Signals("test")
    async with opened(dsn(), pool_max=2, pool_wait_s=0.1, signals=signals) as database, AsyncExitStack() as held:
        for _ in range(2):
            await held.enter_async_context(database.acquire())
        begun_s = time.monotonic()
        with pytest.raises(PoolExhausted) as raised:
            await database.fetchval("SELECT 1")
        assert 0.05 < time.monotonic() - begun_s < 1.0
        assert raised.value.nothing_done
        assert b"tally_database_refused_total 1.0" in signals.exposition("")[0]
        assert b'tally_database_connections{state="in_use"} 2.0' in signals.exposition("")[0]
        with within(0.02), pytest.raises(PoolExhausted):
            await database.fetchval("SELECT 1")
        # Busy is not away.
        await database.check()


async def test_who_waits_longest_is_served_first(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), pool_max=1, pool_wait_s=5) as database:
        served: list[int] = []

        async def wait(number: int) -> None:
            await database.fetchval("SELECT 1")
            served.append(number)

        async with asyncio.TaskGroup() as group, database.acquire():
            for number in range(5):
                group.create_task(wait(number))
            await asyncio.sleep(0.02)
        assert served == [0, 1, 2, 3, 4]


async def test_many_callers_share_few_connections(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), pool_max=3, pool_wait_s=10) as database:
        pids = await asyncio.gather(*(database.fetchval("SELECT pg_backend_pid()") for _ in range(200)))
        assert len(set(pids)) <= 3
        assert database._open <= 3


async def test_a_waiter_that_is_cancelled_loses_no_connection(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), pool_max=1, pool_wait_s=5) as database:
        async with database.acquire():
            waiters = [asyncio.create_task(database.fetchval("SELECT 1")) for _ in range(5)]
            await asyncio.sleep(0.02)
            for waiter in waiters[::2]:
                waiter.cancel()
        done = await asyncio.gather(*waiters, return_exceptions=True)
        assert [one for one in done if one == 1] == [1, 1]
        # Handed over and cancelled in the same instant.
        async with database.acquire():
            waiter = asyncio.create_task(database.fetchval("SELECT 1"))
            await asyncio.sleep(0.02)
        waiter.cancel()
        with suppress(asyncio.CancelledError):
            await waiter
        await settled(database, idle=1)
        assert await database.fetchval("SELECT 1") == 1


@pytest.mark.parametrize("seed", range(3))
async def test_after_any_mix_of_timeouts_and_cancellations_all_connections_work(
    dsn: Callable[[], str], seed: int
) -> None:
    draw = random.Random(seed)
    async with opened(dsn(), pool_max=4, pool_wait_s=0.05) as database:

        async def statement(sleep_s: float, left_s: float, in_transaction: bool) -> None:
            with within(left_s), suppress(DatabaseFault, asyncio.CancelledError):
                if in_transaction:
                    async with database.transaction() as tx:
                        await tx.execute("SELECT pg_sleep($1)", sleep_s)
                else:
                    await database.execute("SELECT pg_sleep($1)", sleep_s)

        async def one() -> None:
            sleep_s, left_s = draw.choice((0.0, 0.005, 1.0)), draw.choice((0.004, 0.02, 5.0))
            task = asyncio.create_task(statement(sleep_s, left_s, draw.random() < 0.5))
            await asyncio.sleep(draw.choice((0.0, 0.001, 0.01, 0.03)))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

        for _ in range(10):
            await asyncio.gather(*(one() for _ in range(12)))
        await settled(database)
        # None may be left: on a busy machine each may have been closed, as one that did not settle in time.
        assert len(database._idle) == database._open <= 4
        assert not database._waiting
        assert await asyncio.gather(*(database.fetchval("SELECT 7") for _ in range(4))) == [7] * 4


async def test_a_stopped_backend_costs_its_caller_the_deadline_and_not_more(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), pool_max=3, pool_min=3) as database:
        pids = await asyncio.gather(
            *(database.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.05)") for _ in range(3))
        )
        assert len(set(pids)) == 3
        stopped = [pids[0], pids[1]]
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            begun_s = time.monotonic()
            with within(0.3):
                ends = await asyncio.gather(
                    *(database.execute("SELECT pg_sleep(0.01)") for _ in range(3)), return_exceptions=True
                )
                async with asyncio.timeout(1):
                    with suppress(DatabaseFault):
                        async with database.transaction() as tx:
                            await tx.execute("SELECT pg_sleep(0.01)")
            assert time.monotonic() - begun_s < 1.0
            assert sum(isinstance(end, DatabaseTimeout) for end in ends) == 2
            await settled(database)
            assert {await database.fetchval("SELECT pg_backend_pid()") for _ in range(3)}.isdisjoint(stopped)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)


async def test_the_service_recovers_by_itself_when_postgresql_does(server: EmbeddedPostgres) -> None:
    async with opened(server.dsn("own", "tally"), pool_min=3, pool_max=3) as database:
        with logs.capture() as events:
            server.stop("fast")
            for _ in range(5):
                with pytest.raises(DatabaseUnavailable):
                    await database.fetchval("SELECT 1")
            with pytest.raises(DatabaseUnavailable):
                await database.check()
            server.start()
            assert await asyncio.gather(*(database.fetchval("SELECT 1") for _ in range(10))) == [1] * 10
            server.kill()
            server.start()
            async with asyncio.timeout(10):
                while True:
                    with suppress(DatabaseUnavailable):
                        await database.check()
                        break
            assert database._open <= 3
        said = [event["event"] for event in events]
        assert said[:2] == ["database unreachable", "database reachable"]
        assert len(said) <= 6


async def test_starting_waits_for_postgresql_and_says_so_once(server: EmbeddedPostgres) -> None:
    url = server.dsn("own", "tally")
    server.stop("fast")
    database = Database(url, "test", pool_min=2)
    with logs.capture() as events:
        starting = asyncio.create_task(database.start())
        await asyncio.sleep(0.6)
        assert not starting.done()
        assert [event["event"] for event in events] == ["database unreachable"]
        await asyncio.to_thread(server.start)
        await starting
    assert events[-1]["event"] == "database reachable"
    assert len(database._idle) == 2
    await database.close()


async def test_after_closing_nothing_is_done(dsn: Callable[[], str]) -> None:
    async with opened(dsn(), pool_max=2) as database:
        async with database.acquire() as connection:
            await database.close()
            assert await connection.fetchval("SELECT 1") == 1
        assert connection.is_closed()
        with pytest.raises(DatabaseUnavailable, match="stopping"):
            await database.fetchval("SELECT 1")
        assert database._open == 0


def test_the_repr_is_its_state() -> None:
    assert repr(Database("postgresql://h/d", "author")) == "<Database author open=0/10 idle=0 waiting=0>"


@pytest.mark.parametrize(
    ("fault", "reading", "code"),
    [
        (PoolExhausted("", nothing_done=True), False, "overloaded"),
        (DatabaseUnavailable("", nothing_done=True), False, "service-unavailable"),
        (DatabaseUnavailable("", nothing_done=False), False, "outcome-unknown"),
        (DatabaseUnavailable("", nothing_done=False), True, "service-unavailable"),
        (DatabaseTimeout("", nothing_done=True), False, "deadline-exceeded"),
        (DatabaseTimeout("", nothing_done=False), False, "outcome-unknown"),
        (DatabaseTimeout("", nothing_done=False), True, "deadline-exceeded"),
        (Contended("", nothing_done=True), False, "contended"),
    ],
)
def test_a_caller_is_told_what_is_true(fault: DatabaseFault, reading: bool, code: str) -> None:
    assert problem(fault, reading=reading).code == code


# --- named SQL


def sql(folder: Path, text: str, name: str = "some.sql") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_queries_are_attributes(tmp_path: Path) -> None:
    queries = load_queries(
        sql(
            tmp_path,
            """-- About halves.

-- name: live
-- The live ones,
-- in order.
SELECT *   -- all of them
FROM {{relationship}}_half
WHERE st = 'L' AND why IS DISTINCT FROM '{}';

-- name: count
-- How many there are.
SELECT count(*) FROM {{ relationship }}_half
""",
        ),
        relationship="attendance",
    )
    assert queries.live == (
        "/* live */ SELECT *   -- all of them\nFROM attendance_half\nWHERE st = 'L' AND why IS DISTINCT FROM '{}'"
    )
    assert queries.count == "/* count */ SELECT count(*) FROM attendance_half"
    assert list(queries) == ["live", "count"]


def test_a_query_that_is_not_there_is_named(tmp_path: Path) -> None:
    queries = load_queries(sql(tmp_path, "-- name: one\n-- Says one.\nSELECT 1"))
    with pytest.raises(AttributeError, match=r"there is no query 'two' in some\.sql, only one"):
        _ = queries.two


def test_a_folder_is_read_whole(tmp_path: Path) -> None:
    sql(tmp_path, "-- name: one\n-- Says one.\nSELECT 1", "a.sql")
    sql(tmp_path, "-- name: two\n-- Says two.\nSELECT 2", "b.sql")
    sql(tmp_path, "no SQL at all", "readme.md")
    assert list(load_queries(tmp_path)) == ["one", "two"]
    sql(tmp_path, "-- name: one\n-- Again.\nSELECT 1", "c.sql")
    with pytest.raises(ValueError, match=r"c\.sql: there is another query named 'one'"):
        load_queries(tmp_path)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("-- name: one\nSELECT 1", "one has no sentence"),
        ("-- name: one\n-- Says one.\n", "one has no SQL"),
        ("-- name: one-two\n-- Says.\nSELECT 1", "'one-two' cannot be the name"),
        ("SELECT 1", "there is SQL before the first"),
        ("-- name: one\n-- Says.\nSELECT {{what}}", "one: nothing was given for {{what}}"),
    ],
)
def test_a_file_that_is_not_in_form_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        load_queries(sql(tmp_path, text))


async def test_the_name_of_a_query_is_seen_by_the_server(database: Database, tmp_path: Path) -> None:
    queries = load_queries(sql(tmp_path, "-- name: whoami\n-- The text that runs.\nSELECT current_query();"))
    assert await database.fetchval(queries.whoami) == "/* whoami */ SELECT current_query()"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("plain", "plain"),
        ("a\0b", "a?b"),
        ("Bo\udceete \ud800", "Bo?te ?"),
        ("é\U0010ffff", "é\U0010ffff"),
        ("x" * 9999, "x" * 1000),
    ],
)
def test_what_others_said_is_storable(said: str, kept: str) -> None:
    assert storable(said) == kept
