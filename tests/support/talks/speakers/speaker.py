"""The speaker: what is posted, patched and shown."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis.body import VISIBLE
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource

FullName = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE)]


class NewSpeaker(Struct, frozen=True):
    full_name: FullName


class SpeakerPatch(Struct, frozen=True):
    full_name: FullName | UnsetType = UNSET


class Speaker(Struct, frozen=True):
    id: UUID
    full_name: str
    version: int


SPEAKER = Resource(
    name="speaker",
    create=NewSpeaker,
    patch=SpeakerPatch,
    view=Speaker,
    queries=load_queries(files(__package__).joinpath("speaker.sql")),
    not_found="speaker-not-found",
)
