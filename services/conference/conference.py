"""The conference: what is posted, patched and shown."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis.body import VISIBLE
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource, Violation

Acronym = Annotated[str, Meta(min_length=1, max_length=50, pattern=VISIBLE, description="Such as SWAT.")]
Name = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE, description="The name in full.")]


class NewConference(Struct, frozen=True):
    acronym: Acronym
    name: Name | None = None


class ConferencePatch(Struct, frozen=True):
    acronym: Acronym | UnsetType = UNSET
    name: Name | UnsetType | None = UNSET


class Conference(Struct, frozen=True):
    id: UUID
    acronym: str
    name: str | None
    version: int


CONFERENCE = Resource(
    name="conference",
    create=NewConference,
    patch=ConferencePatch,
    view=Conference,
    queries=load_queries(files("services.conference").joinpath("conference.sql")),
    not_found="conference-not-found",
    constraints={
        "event_conference": Violation(
            "has-dependents", "The conference has events: delete them first, or ask for ?cascade=true."
        )
    },
    cascade=True,
)
