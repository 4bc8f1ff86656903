"""(c) the plain gateway and its two services (plain/): three uvicorn processes, set up as for production."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tally.local.processes import free_port
from tests.bench.candidates.candidate import Candidate, Ground
from tests.bench.candidates.plain_databases import LIVE_ROWS, plain_databases
from tests.bench.processes import python, wait_for_port


@contextmanager
def plain_gateway(ground: Ground) -> Iterator[Candidate]:
    with ExitStack() as running:
        databases = running.enter_context(plain_databases(ground))
        ports: dict[str, int] = {}
        processes = {"postgres": databases.postgres_pid}
        environment = dict(ground.environment)
        for name, database in (
            ("author", databases.author),
            ("conference", databases.conference),
            ("gateway", None),
        ):
            port = ports[name] = free_port()
            own = {"DATABASE_URL": database.dsn} if database else {}
            service = running.enter_context(
                python(*uvicorn(name, port), environment=environment | own, guardian=ground.guardian)
            )
            wait_for_port(port, service)
            environment[f"{name.upper()}_URL"] = f"http://127.0.0.1:{port}"
            processes[name] = service.pid
        yield Candidate(
            letter="c",
            title="plain gateway",
            works=frozenset({"create", "read"}),
            author=databases.author,
            conference=databases.conference,
            live_rows=LIVE_ROWS,
            processes=processes,
            run=ground.load.at(ports["gateway"]),
        )


def uvicorn(name: str, port: int) -> tuple[str, ...]:
    app = f"tests.bench.candidates.plain.{name}:app"
    return ("-m", "uvicorn", app, "--port", str(port), "--no-access-log", "--log-level", "warning")
