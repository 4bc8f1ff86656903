"""A real PostgreSQL for tests: one server per session, fresh databases from templates in a few hundredths of a second.

    async def test_something(dsn):
        connection = await asyncpg.connect(dsn())

    def test_with_a_schema(dsn):
        first, second = dsn("halves", create_halves), dsn("halves", create_halves)

TALLY_LOCAL_POSTGRES_BIN runs all of it on another version: `TALLY_LOCAL_POSTGRES_BIN=/usr/lib/postgresql/15/bin make
test`.
"""

from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tally.local.postgres import EmbeddedPostgres
from tests.support.folders import scratch_folder

OWNER = "tally"
"""Not a superuser, so that a test notices what a service may not do."""

# A test that leaks connections fails by itself, instead of starving the tests after it.
CONNECTIONS_PER_DATABASE = 60


class Databases:
    """Makes databases, and drops those of one test when it ends."""

    def __init__(self, server: EmbeddedPostgres, templates: set[str], numbers: Iterator[int]) -> None:
        self.server = server
        self._templates = templates
        self._numbers = numbers
        self._made: list[str] = []

    def __call__(self, template: str | None = None, prepare: Callable[[str], None] | None = None) -> str:
        """The address of a new database: empty, or a copy of `template`, which `prepare(dsn)` fills once per session.

        `prepare` must close its connections, and is called outside of any event loop only if the caller is.
        """
        if template is not None and template not in self._templates:
            self.server.create_database(f"template_{template}", OWNER)
            if prepare is not None:
                prepare(self.server.dsn(f"template_{template}", OWNER))
            self._templates.add(template)
        name = f"test_{next(self._numbers)}"
        self.server.create_database(
            name,
            OWNER,
            template=template and f"template_{template}",
            connection_limit=CONNECTIONS_PER_DATABASE,
        )
        self._made.append(name)
        return self.server.dsn(name, OWNER)

    def drop(self) -> None:
        while self._made:
            self.server.drop_database(self._made.pop())


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """The session's server, with fsync off. Tests that kill a server start their own."""
    with scratch_folder() as folder:
        server = EmbeddedPostgres(folder / "postgres", durable=False)
        try:
            server.start()
            yield server
        finally:
            server.destroy()


@pytest.fixture(scope="session")
def databases_of_session(postgres_server: EmbeddedPostgres) -> Callable[[], Databases]:
    templates: set[str] = set()
    numbers = count(1)
    return lambda: Databases(postgres_server, templates, numbers)


@pytest.fixture
def dsn(databases_of_session: Callable[[], Databases]) -> Iterator[Databases]:
    """`dsn()` makes a database of this test's own and returns its address."""
    databases = databases_of_session()
    yield databases
    databases.drop()
