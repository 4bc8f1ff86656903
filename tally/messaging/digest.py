"""Whether two tables hold the same, without comparing them row by row: a digest that does not depend on order.

    rows = await connection.fetchrow(Table("author", ("id", "full_name", "version")).sql("public"))

Each row's columns become JSON text, that an MD5, and of it 60 bits are summed: equal sets of rows have equal sums in
whatever order they are stored, on either side of a network. It tells accidents from equality, not forgeries (for those
there is the audit trail's chain).

Assumes that the columns' text does not depend on a session's settings; a time goes in as `extract(epoch from …)`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from tally.chassis.database import Connection

#: A table is read in full. (PostgreSQL's own limit on a statement holds, too, where the caller has not lifted it.)
_TIMEOUT_S: Final = 600.0


class Digest(Struct, frozen=True):
    """What a table holds: how many rows, and the sum of their hashes in hexadecimal."""

    rows: int
    digest: str


@dataclass(frozen=True, slots=True)
class Table:
    """A table by the columns that count (SQL expressions), and which of its rows do."""

    name: str
    columns: tuple[str, ...]
    where: str = "true"

    def sql(self, schema: str) -> str:
        """The query; any owner of the same data may be asked it."""
        row = f"md5(json_build_array({', '.join(self.columns)})::text)"
        bits = f"('x' || left({row}, 15))::bit(60)::bigint"
        return f"SELECT count(*), coalesce(sum({bits}), 0) FROM {schema}.{self.name} WHERE {self.where}"


async def digests(connection: Connection, schema: str, tables: Iterable[Table]) -> dict[str, Digest]:
    """The digest of each table, by its name."""
    return {table.name: await _digest(connection, table.sql(schema)) for table in tables}


async def _digest(connection: Connection, sql: str) -> Digest:
    row = await connection.fetchrow(sql, timeout=_TIMEOUT_S)
    assert row is not None, "an aggregate has one row"
    return Digest(row[0], f"{int(row[1]):x}")
