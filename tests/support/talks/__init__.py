"""A second relationship, declared only here: speakers give talks in sessions, and nobody counts seats.

It shows that what ships is not the only relationship possible: it passes the suites that the attendance passes. Its two
owners and its gateway are services as a team would write them, and run as processes of their own.
"""

from tally.local.services import NATS, Program
from tally.protocol.relationship import End, Relationship

TALK = Relationship(
    name="talk",
    left=End(service="speakers", entity="speaker", plural="speakers"),
    right=End(service="programme", entity="session", plural="sessions"),
)

CALLERS = "gateway,speakers,programme"
"""Who may call the owners' internal endpoints."""


def _service(name: str, port: int, stage: int, *, database: bool = True) -> Program:
    module = ("{python}", "-m", f"tests.support.talks.{name}")
    return Program(name, port, stage, (*module, "serve"), (*module, "migrate") if database else None)


TALKS = (
    _service("speakers", 8170, 1),
    _service("programme", 8180, 1),
    _service("gateway", 8543, 2, database=False),
    NATS,
)
"""What the launcher starts."""
