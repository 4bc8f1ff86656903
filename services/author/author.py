"""The author: what is posted, patched and shown."""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from tally.chassis.body import MAIL_ADDRESS, VISIBLE
from tally.chassis.queries import load_queries
from tally.chassis.resource import Resource

FullName = Annotated[str, Meta(min_length=1, max_length=200, pattern=VISIBLE, description="As it is to be shown.")]
Email = Annotated[
    str,
    Meta(
        min_length=3,
        max_length=254,
        pattern=MAIL_ADDRESS,
        description="Where mail goes, if anywhere.",
    ),
]


class NewAuthor(Struct, frozen=True):
    full_name: FullName
    email: Email | None = None


class AuthorPatch(Struct, frozen=True):
    full_name: FullName | UnsetType = UNSET
    email: Email | UnsetType | None = UNSET


class Author(Struct, frozen=True):
    id: UUID
    full_name: str
    email: str | None
    version: int


AUTHOR = Resource(
    name="author",
    create=NewAuthor,
    patch=AuthorPatch,
    view=Author,
    queries=load_queries(files("services.author").joinpath("author.sql")),
    not_found="author-not-found",
)
