"""The SQL of a relationship on one side, rendered from its declaration.

Assumes that names were checked by the declaration, so they can stand in SQL as they are. ``{name}`` in the
files is replaced; a line that begins with ``--seats--``, ``--left--`` and the like is there only for such a side.
"""

from __future__ import annotations

import re
from hashlib import sha256
from importlib.resources import files

from tally.halves.store import ENDED_KEEP_MS, FIRST_INC
from tally.protocol.relationship import Relationship, Side

_CONDITIONAL = re.compile(r"^([ ]*)--(left|right|seats|no-seats|shadow)--[ ]?(.*)$", re.MULTILINE)

#: How the functions are planned: once per connection, for a table of any size. A plan per call costs more than the
#: call; a plan made while a table is small reads all of it, and is kept while the table grows until the next ANALYZE.
_PLANS = "SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET jit = off"


def lock_key(relationship: Relationship, purpose: str = "") -> int:
    """An advisory lock of a relationship in each of its databases: 63 bits of the hash of its name, and of what it is
    for besides the protocol's messages."""
    return int.from_bytes(sha256(f"tally:{relationship.name}{purpose}".encode()).digest()[:8]) >> 1


def render(text: str, relationship: Relationship, side: Side) -> str:
    """``text`` with the names of ``relationship`` as ``side`` sees it."""
    own, other = relationship.end(side), relationship.end(side.peer)
    seats = own.seats
    holds = {
        "left": side is Side.LEFT,
        "right": side is Side.RIGHT,
        "seats": bool(seats),
        "no-seats": not seats,
        "shadow": other.copy is not None,
    }
    text = _CONDITIONAL.sub(lambda m: m[1] + m[3] if holds[m[2]] else "", text)
    names = {
        "name": relationship.name,
        "side": side.value,
        "own": own.entity,
        "other": other.entity,
        "left": relationship.left.entity,
        "right": relationship.right.entity,
        "own_column": "l" if side is Side.LEFT else "r",
        "owns": "lefts" if side is Side.LEFT else "rights",
        "plans": _PLANS,
        "seats": seats or "",
        "lock": str(lock_key(relationship)),
        "settling": str(lock_key(relationship, " settling")),
        "ended_keep_ms": str(ENDED_KEEP_MS),
        "own_inc": str(FIRST_INC[side]),
        "peer_inc": str(FIRST_INC[side.peer]),
    }
    for name, value in names.items():
        text = text.replace("{" + name + "}", value)
    return text


def migrations(relationship: Relationship, side: Side) -> list[tuple[str, str]]:
    """The numbered migrations of this side, (file name, SQL) in order. They follow those of the entity."""
    wanted = ["0001_halves.sql", "0002_functions.sql"]
    if side is Side.RIGHT:
        wanted.append("0003_settle.sql")
    if relationship.end(side).seats:
        wanted.append("0004_seats.sql")
    wanted.append("0005_restore.sql")
    if side is Side.RIGHT:
        wanted.append("0006_settling.sql")
    wanted.extend(["0007_ended.sql", "0008_deletion.sql"])
    # A side that leaves a file out closes the gap: numbers say in which order it was applied there.
    return [
        (f"{number:04}{name[4:]}", render(_read(name), relationship, side)) for number, name in enumerate(wanted, 1)
    ]


def queries(relationship: Relationship, side: Side) -> str:
    """The named queries that call the functions."""
    return render(_read("queries.sql"), relationship, side)


def _read(name: str) -> str:
    return files("tally.halves").joinpath("sql", name).read_text()
