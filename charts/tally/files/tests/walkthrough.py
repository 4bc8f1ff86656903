"""Walks through the public API from inside the cluster and checks every answer."""

import os
import sys

from tally.local.failure import LocalError
from tally.local.services import Place
from tally.local.walkthrough import Demonstration

SERVICES = ("author", "conference", "gateway")


def place(name: str) -> Place:
    host, port = os.environ[f"{name.upper()}_HOST"], int(os.environ[f"{name.upper()}_PORT"])
    return Place(host, port, port + 1000)


try:
    Demonstration({name: place(name) for name in SERVICES}, print).run()
except LocalError as error:
    sys.exit(str(error))
