"""The session: what is posted, patched and shown."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis.body import VISIBLE
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource

Title = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE)]


class NewSession(Struct, frozen=True):
    title: Title


class SessionPatch(Struct, frozen=True):
    title: Title | UnsetType = UNSET


class Session(Struct, frozen=True):
    id: UUID
    title: str
    version: int


SESSION = Resource(
    name="session",
    create=NewSession,
    patch=SessionPatch,
    view=Session,
    queries=load_queries(files(__package__).joinpath("session.sql")),
    not_found="session-not-found",
)
