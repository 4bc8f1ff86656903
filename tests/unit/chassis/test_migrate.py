"""From files to a schema, once, whoever asks and however many at once."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import asyncpg
import pytest

from tally.chassis import logs
from tally.chassis.database import Database
from tally.chassis.migrate import LOCK_KEY, MigrationError, Schema, Source, files, migrate, pending

ONE = ("0001_author.sql", "CREATE TABLE author (id int PRIMARY KEY)")
TWO = ("0002_email.sql", "ALTER TABLE author ADD email text")
HALF = ("0001_half.sql", "CREATE TABLE half (op int REFERENCES author)")


async def recorded(dsn: str) -> list[tuple[str, int, str]]:
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT source, number, name FROM schema_migration ORDER BY applied_at, number")
    await connection.close()
    return [tuple(row) for row in rows]


async def missing(dsn: str, *sources: Source) -> list[str]:
    connection = await asyncpg.connect(dsn)
    try:
        return await pending(connection, sources)
    finally:
        await connection.close()


async def test_what_is_not_applied_is_applied_in_order_and_recorded(dsn: Callable[[], str]) -> None:
    url = dsn()
    # A later source may build on an earlier one.
    sources = [Source("author", [TWO, ONE]), Source("attendance", [HALF])]
    assert [str(one) for one in await migrate(url, sources)] == [
        "author/0001_author.sql",
        "author/0002_email.sql",
        "attendance/0001_half.sql",
    ]
    assert await recorded(url) == [("author", 1, ONE[0]), ("author", 2, TWO[0]), ("attendance", 1, HALF[0])]
    assert await missing(url, *sources) == []


async def test_a_second_run_does_nothing_and_says_so(dsn: Callable[[], str]) -> None:
    url = dsn()
    await migrate(url, [Source("author", [ONE])])
    with logs.capture() as events:
        assert await migrate(url, [Source("author", [ONE])]) == []
    assert [event["event"] for event in events] == ["schema is up to date"]


async def test_only_the_new_ones_are_applied_and_each_is_logged(dsn: Callable[[], str]) -> None:
    url = dsn()
    await migrate(url, [Source("author", [ONE])])
    assert await missing(url, Source("author", [ONE, TWO])) == ["author/0002_email.sql"]
    with logs.capture() as events:
        assert [one.name for one in await migrate(url, [Source("author", [ONE, TWO])])] == [TWO[0]]
    assert [(event["event"], event["migration"]) for event in events] == [("migrated", TWO[0])]


async def test_an_edited_file_is_refused_by_name_before_anything_is_done(dsn: Callable[[], str]) -> None:
    url = dsn()
    await migrate(url, [Source("author", [ONE])])
    edited = Source("author", [(ONE[0], ONE[1] + " -- better"), TWO])
    with pytest.raises(MigrationError, match=r"author/0001_author\.sql was edited after it had been applied"):
        await migrate(url, [edited])
    assert await recorded(url) == [("author", 1, ONE[0])]
    with pytest.raises(MigrationError, match="was edited"):
        await missing(url, edited)


async def test_a_file_below_one_already_applied_is_refused(dsn: Callable[[], str]) -> None:
    url = dsn()
    await migrate(url, [Source("author", [ONE, TWO])])
    connection = await asyncpg.connect(url)
    await connection.execute("DELETE FROM schema_migration WHERE number = 1")
    await connection.close()
    with pytest.raises(MigrationError, match="author 0001 was never applied to this database, but 0002 was"):
        await migrate(url, [Source("author", [ONE, TWO])])


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_c.sql"], r"x/0003_c\.sql should be number 0002"),
        (["0002_b.sql"], r"x/0002_b\.sql should be number 0001"),
        (["0001_a.sql", "0001_b.sql"], "should be number 0002"),
        (["1_a.sql"], r"x/1_a\.sql is not named like 0001_what_it_does\.sql"),
        (["0001-a.sql"], "is not named like"),
    ],
)
def test_numbers_have_no_gaps_and_no_doubles(names: list[str], complaint: str) -> None:
    with pytest.raises(MigrationError, match=complaint):
        Source("x", [(name, "SELECT 1") for name in names]).migrations()


async def test_an_older_version_leaves_a_newer_database_as_it_is(dsn: Callable[[], str]) -> None:
    url = dsn()
    await migrate(url, [Source("author", [ONE, TWO]), Source("attendance", [HALF])])
    assert await migrate(url, [Source("author", [ONE])]) == []
    assert await missing(url, Source("author", [ONE])) == []


async def test_a_file_that_fails_leaves_nothing_and_keeps_what_came_before(dsn: Callable[[], str]) -> None:
    url = dsn()
    broken = ("0002_broken.sql", "CREATE TABLE half_done (id int); SELECT 1/0")
    with pytest.raises(MigrationError, match=r"author/0002_broken\.sql failed, and nothing of it was kept: division"):
        await migrate(url, [Source("author", [ONE, broken])])
    assert await recorded(url) == [("author", 1, ONE[0])]
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT to_regclass('half_done')") is None
    await connection.close()


async def test_many_replicas_may_migrate_at_once(dsn: Callable[[], str]) -> None:
    url = dsn()
    slow = ("0003_slow.sql", "SELECT pg_sleep(0.1)")
    done = await asyncio.gather(*(migrate(url, [Source("author", [ONE, TWO, slow])]) for _ in range(6)))
    assert sorted(map(len, done)) == [0, 0, 0, 0, 0, 3]
    assert len(await recorded(url)) == 3


async def test_the_wait_for_another_migration_is_bounded(dsn: Callable[[], str]) -> None:
    url = dsn()
    holder = await asyncpg.connect(url)
    await holder.execute(f"SELECT pg_advisory_lock({LOCK_KEY})")
    with pytest.raises(MigrationError, match=r"Another migration has held the lock for 0\.2 s"):
        await migrate(url, [Source("author", [ONE])], lock_wait_s=0.2)
    await holder.close()
    assert len(await migrate(url, [Source("author", [ONE])])) == 1


async def test_a_database_that_is_away_is_a_sentence() -> None:
    with pytest.raises(MigrationError, match=r"^The database at 127\.0\.0\.1:9 cannot be reached: .+\."):
        await migrate("postgresql://tally@127.0.0.1:9/own", [Source("author", [ONE])], connect_wait_s=0.0)


async def test_a_database_that_is_away_is_waited_for_and_that_is_said_once() -> None:
    with logs.capture() as said, pytest.raises(MigrationError):
        await migrate("postgresql://tally:hunter2@127.0.0.1:9/own", [Source("author", [ONE])], connect_wait_s=1.2)
    [waiting] = said
    assert (waiting["event"], waiting["at"]) == ("waiting for the database", "127.0.0.1:9")
    assert waiting["reason"]
    assert "hunter2" not in str(waiting)


async def test_a_wrong_password_is_a_sentence_without_it(dsn: Callable[[], str]) -> None:
    url = dsn()
    password = url.split(":")[2].split("@")[0]
    with pytest.raises(MigrationError, match="refuses the connection") as raised:
        await migrate(url.replace(password, "hunter2"), [Source("author", [ONE])])
    assert "hunter2" not in str(raised.value)


def test_a_folder_is_a_source_and_a_template_too(tmp_path: Path) -> None:
    (tmp_path / "0001_half.sql").write_text("CREATE TABLE {{relationship}}_half ()")
    (tmp_path / "notes.txt").write_text("not a migration")
    assert files(tmp_path, relationship="talk") == [("0001_half.sql", "CREATE TABLE talk_half ()")]
    with pytest.raises(ValueError, match=r"0001_half\.sql: nothing was given for {{relationship}}"):
        files(tmp_path)


async def test_a_service_waits_until_somebody_has_migrated(dsn: Callable[[], str]) -> None:
    url = dsn()
    sources = [Source("author", [ONE, TWO])]
    database = Database(url, "author")
    schema = Schema(database, sources)
    with pytest.raises(MigrationError, match=r"pending: author/0001_author\.sql, author/0002_email\.sql"):
        await schema.check()
    with logs.capture() as events:
        waiting = asyncio.create_task(schema.wait(pause_s=0.01))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await migrate(url, [Source("author", [ONE])])
        await migrate(url, sources)
        await waiting
    assert [event["event"] for event in events].count("waiting for migrations") <= 2
    await schema.check()
    await database.close()


async def test_a_database_that_goes_away_while_its_schema_is_awaited_is_waited_for() -> None:
    """As in a pod on a busy node, whose database answered a moment ago."""
    sources = [Source("author", [ONE])]
    schema = Schema(Database("postgresql://tally@127.0.0.1:9/own", "author"), sources)
    with logs.capture() as events:
        waiting = asyncio.create_task(schema.wait(pause_s=0.01))
        await asyncio.sleep(0.2)
        assert not waiting.done()
    waiting.cancel()
    assert [event["event"] for event in events].count("waiting for migrations") == 1
