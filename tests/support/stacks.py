"""A stack of stand-ins: the launcher's table with other rows. `python -m tests.support.stacks FOLDER [--screen]` is
`tally run` for them, on the ports that TALLY_LOCAL_ALPHA_PORT and so on give.
"""

import sys
from pathlib import Path

from tally.local.failure import LocalError
from tally.local.run import run
from tally.local.services import SERVICES, Program

CORE = tuple(program for program in SERVICES if program.name in ("author", "conference", "gateway"))
"""The relationship's own three: for suites that ask nobody else, and must hold without the others."""

_STANDIN = ("{python}", "-m", "tests.support.standin")

STANDINS = (
    Program("alpha", 12_001, 1, (*_STANDIN, "serve"), (*_STANDIN, "migrate")),
    Program("beta", 12_002, 1, (*_STANDIN, "serve"), (*_STANDIN, "migrate")),
    Program("gamma", 12_003, 2, (*_STANDIN, "serve")),
)

NATS = Program(
    "nats",
    12_004,
    0,
    ("{bin}/nats-server", "-a", "{host}", "-p", "{port}", "-m", "{admin_port}", "-js", "-sd", "{folder}"),
    ready="/healthz",
    address="nats://{host}:{port}",
    settings=False,
)
"""A row that is no service of ours: another program, with its own way to say that it is ready."""

if __name__ == "__main__":
    try:
        screen = "--screen" in sys.argv
        sys.exit(run(Path(sys.argv[1]), programs=STANDINS, durable=False, machine_readable=not screen))
    except LocalError as error:
        sys.exit(f"tally: {error}")
