"""THE table of what `make run` starts, and what follows from it: ports, addresses, environments. Nothing runs here.

To add a service, add a row. What a row can say is in `Program`; the environment variables that change it:

    TALLY_PORT_OFFSET=100              shifts every port, so that a second stack can run beside the first
    TALLY_LOCAL_AUTHOR_PORT=9070       sets TALLY_PORT for the author service only; any setting works like this:
    TALLY_LOCAL_AUTHOR_LOG_LEVEL=debug
    TALLY_LOCAL_AUTHOR_DATABASE_URL=…  uses that database instead of the embedded one
    TALLY_LOCAL_POSTGRES_PORT=5433     for the embedded PostgreSQL
    TALLY_LOG_LEVEL=debug              any other TALLY_ variable reaches every service and wins over ours
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tally.chassis.settings import ADMIN_OFFSET
from tally.local.failure import LocalError
from tally.local.processes import LOOPBACK, holder, is_taken

OFFSET_VARIABLE = "TALLY_PORT_OFFSET"
PREFIX = "TALLY_LOCAL_"
# What is ours, not a service's.
OWN_VARIABLES = frozenset({"TALLY_LOCAL_FOLDER", "TALLY_LOCAL_POSTGRES_PORT", "TALLY_LOCAL_POSTGRES_BIN"})
# Where the services' metrics are, for who scrapes them: `author=http://127.0.0.1:9070 …`
SCRAPED = "TALLY_SCRAPED"
# One value for all of them cannot be meant.
ONE_PER_SERVICE = frozenset({"TALLY_PORT", "TALLY_ADMIN_PORT", "TALLY_DATABASE_URL"})


@dataclass(frozen=True, slots=True)
class Program:
    """A row: a process of the stack.

    In `command` and `migrate`, `{python}`, `{bin}` (the virtual environment's programs), `{folder}` (this program's
    own, for its data), `{host}`, `{port}` and `{admin_port}` are filled in. A higher stage uses the ones below it:
    they start before it and stop after it.
    """

    name: str
    port: int
    stage: int
    command: tuple[str, ...]
    migrate: tuple[str, ...] | None = None
    """Set for who owns a database: run before the start, with the same environment."""
    ready: str = "/readyz"
    """On the admin port; 200 means ready."""
    address: str = "{scheme}://{host}:{port}"
    """What the others get as TALLY_<NAME>_URL."""
    settings: bool = True
    """Whether it understands our TALLY_ variables, and so a port of its own and TLS."""
    gives: Mapping[str, str] = field(default_factory=dict)
    """What the others get besides, by its variable: `{"TALLY_SMTP_HOST": "{bare_host}"}`; filled in as `address` is.
    (`{host}` has brackets around IPv6, `{bare_host}` has none.)
    """
    remedy: str = ""
    """What to do if its data is damaged, where it has a folder; `{folder}` is filled in."""
    hopeless: str = ""
    """What it says where waiting for it is in vain."""
    admin_offset: int = ADMIN_OFFSET
    """How far its admin port is above the other one; 0 where they are the same."""

    @property
    def has_folder(self) -> bool:
        """Whether it keeps data."""
        return "{folder}" in self.command

    @property
    def variable(self) -> str:
        """The prefix of the variables for this program only."""
        return f"{PREFIX}{self.name.upper()}_"


def service(name: str, port: int, *, stage: int, database: bool = False) -> Program:
    """A service of the reference deployment."""
    module = ("{python}", "-m", f"services.{name}")
    return Program(name, port, stage, (*module, "serve"), (*module, "migrate") if database else None)


NATS = Program(
    "nats",
    4222,
    0,
    (
        *("{bin}/nats-server", "-c", str(Path(__file__).with_name("nats.conf"))),
        *("-a", "{host}", "-p", "{port}", "-m", "{admin_port}", "-js", "-sd", "{folder}"),
    ),
    ready="/healthz",
    address="nats://{host}:{port}",
    settings=False,
    gives={"TALLY_STREAM_URL": "nats://{host}:{port}"},
    remedy="If its data is damaged, delete {folder}: nothing is lost, for the services publish again what it had.",
    hopeless="could not be recovered",
    admin_offset=4000,
)
"""The broker; its monitoring page is on the admin port, 8222."""

MAIL = Program(
    "mail",
    1025,
    0,
    ("{python}", "-m", "tally.local.mailbox", "{host}", "{port}", "{admin_port}", "{folder}"),
    address="smtp://{host}:{port}",
    settings=False,
    gives={
        "TALLY_SMTP_HOST": "{bare_host}",
        "TALLY_SMTP_PORT": "{port}",
        "TALLY_MAIL_URL": "http://{host}:{admin_port}",
    },
    remedy="If its data is damaged, delete {folder}: the mails that it shows are lost, and nothing else.",
    admin_offset=7000,
)
"""The inbox that everybody's mail ends in; its page is on the admin port, 8025."""

SERVICES = (
    service("author", 8070, stage=1, database=True),
    service("conference", 8080, stage=1, database=True),
    service("gateway", 8443, stage=2),
    service("directory", 8060, stage=2, database=True),
    service("notifier", 8050, stage=2, database=True),
    NATS,
    MAIL,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program listens."""

    host: str
    port: int
    admin_port: int
    scheme: str = "http"

    @property
    def bare_host(self) -> str:
        """The host as its neighbours reach it."""
        return LOOPBACK if self.host in ("0.0.0.0", "::", "") else self.host

    @property
    def reached_at(self) -> str:
        """The same as an address has it: IPv6 in brackets."""
        return f"[{self.bare_host}]" if ":" in self.bare_host else self.bare_host

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.reached_at}:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"{self.scheme}://{self.reached_at}:{self.admin_port}"

    @property
    def shown(self) -> str:
        """The address as a person types it."""
        host = "localhost" if self.reached_at == LOOPBACK else self.reached_at
        return f"{host}:{self.port}" if self.scheme == "http" else f"{self.scheme}://{host}:{self.port}"

    def fill(self, text: str) -> str:
        """A row's text for its neighbours, with the placeholders filled in."""
        return text.format(
            scheme=self.scheme,
            host=self.reached_at,
            bare_host=self.bare_host,
            port=self.port,
            admin_port=self.admin_port,
        )


Places = Mapping[str, Place]


def address(program: Program, here: Place) -> str:
    """Where it is, in its own scheme."""
    return here.fill(program.address)


def check_variables(programs: Sequence[Program], environ: Mapping[str, str]) -> None:
    """A mistyped TALLY_LOCAL_ variable, or one value for what each service has its own of, gets a sentence."""
    for name in sorted(name for name, value in environ.items() if value):
        known = name in OWN_VARIABLES or any(name.startswith(program.variable) for program in programs)
        if name.startswith(PREFIX) and not known:
            raise LocalError(
                f"{name} names no service: the names are {', '.join(program.name for program in programs)}, as in "
                f"{programs[0].variable}PORT."
            )
        if name in ONE_PER_SERVICE:
            raise LocalError(
                f"{name} would be the same for every service: unset it, and set {PREFIX}<SERVICE>_"
                f"{name.removeprefix('TALLY_')}, as in {programs[0].variable}{name.removeprefix('TALLY_')}."
            )


def place(programs: Sequence[Program], environ: Mapping[str, str], ports: Mapping[str, int] | None = None) -> Places:
    """Where each program listens; `ports` overrides the environment."""
    places: dict[str, Place] = {}
    offset = _number(environ, OFFSET_VARIABLE, 0)
    for program in programs:
        port = (ports or {}).get(program.name) or _number(environ, f"{program.variable}PORT", program.port + offset)
        places[program.name] = Place(
            # What others are to reach is our services; who else should listen elsewhere is told so by its own variable.
            host=(_setting(program, environ, "HOST") if program.settings else environ.get(f"{program.variable}HOST"))
            or LOOPBACK,
            port=port,
            admin_port=_number(environ, f"{program.variable}ADMIN_PORT", port + program.admin_offset),
            scheme="https" if program.settings and _setting(program, environ, "TLS_CERT_FILE") else "http",
        )
    _check_distinct(programs, places)
    return places


def found(programs: Sequence[Program], environ: Mapping[str, str], running: Places | None) -> Places:
    """Where to ask each program: where the environment says, or else where the stack that runs has it."""
    usual = place(programs, environ)
    if running is None or environ.get(OFFSET_VARIABLE):
        return usual
    return {name: here if _is_chosen(name, environ) else running.get(name, here) for name, here in usual.items()}


def _is_chosen(name: str, environ: Mapping[str, str]) -> bool:
    return any(environ.get(f"{PREFIX}{name.upper()}_{field}") for field in ("HOST", "PORT", "ADMIN_PORT"))


def environment(
    program: Program,
    places: Places,
    programs: Sequence[Program],
    environ: Mapping[str, str],
    database_url: str | None = None,
) -> dict[str, str]:
    """What a program's process gets: ours, then the user's TALLY_ variables, then those for this program only."""
    here = places[program.name]
    ours = {
        "TALLY_HOST": here.host,
        "TALLY_PORT": str(here.port),
        "TALLY_ADMIN_PORT": str(here.admin_port),
        "TALLY_LOG_FORMAT": "json",
        "TALLY_ACCESS_LOG": "all",
        "PYTHONUNBUFFERED": "1",
        # Whoever can reach the page may act by it: here that is whoever sits at this machine.
        "TALLY_UI": "full" if here.host == LOOPBACK else "read",
    }
    for other in programs:
        given = {f"TALLY_{other.name.upper()}_URL": other.address, **other.gives}
        ours |= {name: places[other.name].fill(text) for name, text in given.items()}
    if not program.settings:
        ours[SCRAPED] = " ".join(f"{one.name}={places[one.name].admin_url}" for one in programs if one.settings)
    if database_url is not None:
        ours["TALLY_DATABASE_URL"] = database_url
    users = {name: value for name, value in environ.items() if not name.startswith((PREFIX, OFFSET_VARIABLE))}
    own = {
        f"TALLY_{name.removeprefix(program.variable)}": value
        for name, value in environ.items()
        if name.startswith(program.variable)
    }
    return {**ours, **users, **own, **_python_path(environ)}


def _python_path(environ: Mapping[str, str]) -> dict[str, str]:
    """The source tree first, so that `python -m services.author` works from any folder."""
    if (root := source_tree()) is None:
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), environ.get("PYTHONPATH")]))}


def own_database(program: Program, environ: Mapping[str, str]) -> bool:
    """Whether the embedded PostgreSQL holds this program's database."""
    return program.migrate is not None and not environ.get(f"{program.variable}DATABASE_URL")


def postgres_port(environ: Mapping[str, str]) -> int:
    """The port that the embedded PostgreSQL must use; 0 leaves it the choice."""
    name = "TALLY_LOCAL_POSTGRES_PORT"
    return _number(environ, name, 0) if environ.get(name) else 0


def filled(command: Sequence[str], here: Place, folder: Path) -> list[str]:
    """A row's command with its placeholders filled in."""
    values = {
        "python": sys.executable,
        "bin": str(Path(sys.executable).parent),
        "folder": str(folder),
        "host": here.host,
        "port": str(here.port),
        "admin_port": str(here.admin_port),
    }
    return [part.format_map(values) for part in command]


def check_ports(programs: Sequence[Program], places: Places, *, taken: Callable[[str, int], bool] = is_taken) -> None:
    """Every port is looked at before anything is started."""
    for program in programs:
        here = places[program.name]
        for port, kind, variable in (
            (here.port, "", f"{program.variable}PORT"),
            (here.admin_port, "admin ", f"{program.variable}ADMIN_PORT"),
        ):
            try:
                is_there = taken(here.host, port)
            except OSError as error:
                raise LocalError(
                    f"The {program.name} service cannot listen at {here.host} ({error.strerror}): say another address "
                    f"with {program.variable}HOST=…."
                ) from error
            if is_there:
                raise LocalError(
                    f"Port {port} (the {program.name} service's {kind}port) is taken by "
                    f"{holder(port) or 'another program'}: stop it, or choose another port with {variable}=…, or shift "
                    f"all of them with {OFFSET_VARIABLE}=100."
                )


def local_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Where the stack keeps its data: `.tally` in the source tree, or where we are if we were installed elsewhere."""
    if chosen := environ.get("TALLY_LOCAL_FOLDER"):
        return Path(chosen).absolute()
    return (source_tree() or Path.cwd()) / ".tally"


def source_tree() -> Path | None:
    """The checkout that this file is in, if it is in one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / "pyproject.toml").exists() else None


def _check_distinct(programs: Sequence[Program], places: Places) -> None:
    seen: dict[int, str] = {}
    for program in programs:
        for port in {places[program.name].port: None, places[program.name].admin_port: None}:
            if port in seen:
                raise LocalError(
                    f"Port {port} is both the {seen[port]} service's and the {program.name} service's: choose another "
                    f"with {program.variable}PORT=… (the admin port is {program.admin_offset} above it)."
                )
            seen[port] = program.name


def _setting(program: Program, environ: Mapping[str, str], field: str) -> str | None:
    return environ.get(f"{program.variable}{field}") or environ.get(f"TALLY_{field}")


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "")
    if not text:
        number = default
    elif text.removeprefix("-").isdecimal():
        number = int(text)
    else:
        raise LocalError(f"{name} is {text!r}: it must be a number.")
    if not name.endswith("OFFSET") and not 0 < number < 65_536:
        raise LocalError(f"{name} comes to {number}: a port is between 1 and 65535.")
    return number
