"""Every command in the README and the documents is run, or is known to be run by a test of its own.

What a shell can do on one machine (curl, tally, python) is run block by block against a whole stack, in the order of
the page, with the ports of that stack in place of the usual ones. Prometheus is asked where the machine has it, and
each query is parsed; targets of make exist; what needs a cluster is run by the end-to-end tests.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import promql_parser
import pytest

from tally.local.prometheus import PROMETHEUS, found
from tally.local.services import SERVICES
from tally.local.stack import LocalStack, free_ports
from tests.support.folders import scratch_folder

ROOT = Path(__file__).resolve().parents[2]
BIN = ROOT / ".venv" / "bin"
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
COMMAND_S = 60

#: Commands by their first word, and who runs them.
ELSEWHERE = {
    "kubectl": "tests/e2e",
    "helm": "tests/e2e",
    "kind": "tests/e2e",
    "docker": "tests/e2e",
    "openssl": "tests/integration/statements/test_tls.py",
}
#: Pages whose commands a test of their own runs, in its own story.
OWN_TEST = {"docs/operations/restore.md": "tests/integration/restore/test_runbook.py"}


_ASKS_PROMETHEUS = bool(found() and shutil.which("promtool"))
_QUERY = re.compile(r"""psql "\$(\w+)_DATABASE_URL" -c '([^']+)'""")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of shell commands."""

    page: Path
    line: int
    commands: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> Iterator[Block]:
    lines: list[str] | None = None
    for number, text in enumerate(page.read_text().splitlines(), 1):
        if text.strip() == "```sh":
            begun, lines = number, []
        elif text.strip().startswith("```") and lines is not None:
            yield Block(page, begun, tuple(_commands(lines)))
            lines = None
        elif lines is not None:
            lines.append(text)


def _commands(lines: list[str]) -> Iterator[str]:
    """The commands of a block: continued lines in one, without comments."""
    joined = "\n".join(lines).replace("\\\n", " ")
    for line in joined.splitlines():
        command = re.sub(r"\s+#.*$", "", line).strip()
        if command and not command.startswith("#"):
            yield command


def first_word(command: str) -> str:
    """What is run: the first word that sets no variable, or what a variable is set by."""
    if (asked := re.match(r"export \w+=\$\((\w+) ", command)) is not None:
        return asked[1]
    words = [word for word in command.split() if not re.match(r"^[A-Z_]+=[^$]", word)]
    return words[0] if words else "="


@pytest.fixture(scope="module")
def stack() -> Iterator[LocalStack]:
    environment = {"TALLY_FAULTS": "on"}
    programs = (*SERVICES, PROMETHEUS) if _ASKS_PROMETHEUS else SERVICES
    with (
        scratch_folder() as folder,
        LocalStack(
            folder / ".tally", programs=programs, ports=free_ports(programs), env=environment, durable=False
        ) as running,
    ):
        yield running


def surroundings(stack: LocalStack) -> dict[str, str]:
    """What a person has who types beside a running stack."""
    ports = {f"TALLY_LOCAL_{name.upper()}_PORT": str(here.port) for name, here in stack.places.items()}
    databases = {f"{name.upper()}_DATABASE_URL": stack.dsn(name) for name in ("author", "conference")}
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    return {**os.environ, **ports, **databases, "TALLY_LOCAL_FOLDER": str(stack.folder), "PATH": path}


def at_the_stack(command: str, stack: LocalStack) -> str:
    """The command with this stack's ports."""
    for program in stack.programs:
        here = stack.places[program.name]
        for usual, port in ((program.port, here.port), (program.port + program.admin_offset, here.admin_port)):
            command = command.replace(f"localhost:{usual}", f"127.0.0.1:{port}")
    return command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_tells_to_type_works(page: Path, stack: LocalStack) -> None:
    if (own := OWN_TEST.get(str(page.relative_to(ROOT)))) is not None:
        assert page.name in (ROOT / own).read_text()
        return
    environment = surroundings(stack)
    for block in blocks(page):
        for command in block.commands:
            asyncio.run(_queried(command, stack))
        script = [at_the_stack(command, stack) for command in block.commands if _runs_here(command)]
        if script:
            done = _run(script, {**environment, **_of_a_service(script, stack)})
            assert done.returncode == 0, f"{block}:\n{chr(10).join(script)}\n{done.stdout}\n{done.stderr}"
            assert '"status":4' not in done.stdout.replace(" ", ""), f"{block}: refused\n{done.stdout}"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if str(p.relative_to(ROOT)) not in OWN_TEST], ids=lambda page: page.name
)
def test_what_cannot_be_typed_here_is_known(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for block in blocks(page):
        for command in block.commands:
            word = first_word(command)
            if word == "make":
                target = command.split("make", 1)[1].split()[0]
                assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), f"{block}: no target {target}"
            elif word == "promtool":
                for query in re.findall(r"'([^']+)'", command):
                    promql_parser.parse(query)
            elif not (_runs_here(command) or _QUERY.match(command) or command.startswith("python -m services.")):
                assert word in ELSEWHERE, f"{block}: nobody runs {command!r}"
                runs = ROOT / ELSEWHERE[word]
                assert any(word in file.read_text() for file in ([runs] if runs.is_file() else runs.glob("*.py"))), word


async def _queried(command: str, stack: LocalStack) -> None:
    """What is typed into psql is asked without it: the machine may have none."""
    if (query := _QUERY.match(command)) is not None:
        connection = await asyncpg.connect(stack.dsn(query[1].lower()))
        try:
            await connection.fetch(query[2])
        finally:
            await connection.close()


def _of_a_service(script: list[str], stack: LocalStack) -> dict[str, str]:
    """What a process of the service has whose own command is typed."""
    named = re.search(r"-m services\.(\w+)", "\n".join(script))
    given = stack.environment(named[1]) if named else {}
    return {name: value for name, value in given.items() if name.startswith("TALLY_")}


def _runs_here(command: str) -> bool:
    """Not what serves: that is what the stack consists of."""
    word = first_word(command)
    if re.search(r"-m services\.\w+( serve)?$", command):
        return False
    if word == "promtool":
        return _ASKS_PROMETHEUS
    return word in ("curl", "tally", "python", ".venv/bin/python", "sleep", "eval") or "=$(curl" in command


def _run(script: list[str], environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-euc", "\n".join(script)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )
