"""Who plays in a run: a relationship, its two owners and its gateway, and what an entity of each end is made of.

The words of a history are those of the relationship that ships. Of another one, *author* means its left end and *event*
its right one; the services have their own names, and the header says which relationship it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.attendance import ATTENDANCE
from tally.chassis.problems import CODES, Code
from tally.gateway.codes import codes_of
from tally.local.services import SERVICES, Program
from tally.protocol.relationship import End, Relationship
from tests.support.talks import TALK, TALKS

GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Cast:
    relationship: Relationship
    programs: Sequence[Program]
    left: Callable[[str], Mapping[str, Any]]
    """What is posted to make an author, by some name."""
    right: Callable[[int, int | None, UUID | None], Mapping[str, Any]]
    """What is posted to make an event: by its number, its seats, and the parent."""
    parent: tuple[str, Mapping[str, Any]] | None = None
    """What the events belong to, made once by the right service: its path, and what is posted."""

    @property
    def author(self) -> End:
        return self.relationship.left

    @property
    def event(self) -> End:
        return self.relationship.right

    @property
    def owners(self) -> tuple[str, str]:
        """The services of the two ends."""
        return self.author.service, self.event.service

    @property
    def codes(self) -> Mapping[str, Code]:
        """Every code that a client may be answered."""
        return {**CODES, **codes_of(self.relationship)}


def _author(name: str) -> Mapping[str, Any]:
    return {"full_name": f"Author {name}", "email": f"{name}@example.org"}


def _event(seq: int, capacity: int | None, conference: UUID | None) -> Mapping[str, Any]:
    return {"conference_id": str(conference), "seq": seq, "capacity": capacity}


def _speaker(name: str) -> Mapping[str, Any]:
    return {"full_name": f"Speaker {name}"}


def _session(number: int, capacity: int | None, parent: UUID | None) -> Mapping[str, Any]:
    return {"title": f"Session {number}"}


ATTENDING = Cast(ATTENDANCE, SERVICES, _author, _event, ("/conference", {"acronym": "CHAOS"}))
TALKING = Cast(TALK, TALKS, _speaker, _session)
CASTS = {cast.relationship.name: cast for cast in (ATTENDING, TALKING)}
