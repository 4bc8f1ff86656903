"""The error codes that follow from a relationship's declaration: who may be missing, and what may be full."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from tally.chassis.problems import Code
from tally.protocol.relationship import Relationship, Side


def codes_of(relationship: Relationship) -> Mapping[str, Code]:
    """`author-not-found`, `event-not-found`, `attendance-not-found`, and `event-full` where there are seats."""
    names = [relationship.left.entity, relationship.right.entity, relationship.name]
    codes = {f"{name}-not-found": Code(HTTPStatus.NOT_FOUND, f"There is no such {name}") for name in names}
    for end in map(relationship.end, Side):
        if end.seats:
            codes[f"{end.entity}-full"] = Code(HTTPStatus.CONFLICT, f"The {end.entity} has no free seat")
    return codes
