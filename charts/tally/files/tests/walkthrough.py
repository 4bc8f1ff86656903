"""Walks through the public API from inside the cluster, checks every answer, and takes away what it made."""

import re
import sys

from tidy import Made, place

from tally.local.failure import LocalError
from tally.local.walkthrough import Demonstration

SERVICES = ("author", "conference", "gateway")
ATTENDANCE = re.compile(r"/event/[^/]+/attendance/[^/]+")


def noted(text: str) -> None:
    """Says it, and notes what has a place of its own now: who is made is told its address."""
    print(text, flush=True)
    if match := re.fullmatch(r" +Location: (?:https?://[^/]+)?(/(\w+)/\S+)", text):
        path, kind = match.groups()
        made.add("gateway" if ATTENDANCE.fullmatch(path) else {"event": "conference"}.get(kind, kind), path)


with Made() as made:
    try:
        Demonstration({name: place(name) for name in SERVICES}, noted).run()
    except LocalError as error:
        sys.exit(str(error))
