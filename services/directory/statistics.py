"""Attendance over time: how much was made and cancelled, in buckets of equal length."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal
from uuid import UUID

from msgspec import Meta, Struct
from starlette.requests import Request
from starlette.responses import Response

from services.directory.reading import Reading, list_of, queries, read
from tally.chassis.clock import Clock, utc
from tally.chassis.http import QueryParameter, Route, after, cursor, limit, query_value

#: By how much the range begins before its end, where it is not given.
_SPANS: Final = {
    "minute": timedelta(hours=1),
    "hour": timedelta(days=2),
    "day": timedelta(days=60),
    "month": timedelta(days=731),
}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_MICROSECONDS_MAX: Final = 2**55

BUCKET: Final = QueryParameter("bucket", "How long a bucket is; hour if it is not given.", Literal[tuple(_SPANS)])
FROM: Final = QueryParameter("from", "Where the range begins.", Annotated[datetime, Meta(tz=True)])
TO: Final = QueryParameter("to", "Where it ends; now if it is not given.", Annotated[datetime, Meta(tz=True)])


class Bucket(Struct, frozen=True):
    """What happened in the bucket that begins at ``at`` (UTC)."""

    at: datetime
    made: int
    cancelled: int


class Statistics:
    """The route."""

    def __init__(self, reading: Reading, clock: Clock) -> None:
        self._reading = reading
        self._clock = clock

    def routes(self) -> list[Route]:
        return [
            read(
                "/statistics/attendance", self._attendance, "Attendance over time; empty buckets are left out.",
                list_of(Bucket, "BucketPage"), query=(BUCKET, FROM, TO),
            )
        ]  # fmt: skip

    async def _attendance(self, request: Request) -> Response:
        headers = await self._reading.waited(request)
        bucket = query_value(request, BUCKET) or "hour"
        end = query_value(request, TO) or utc(self._clock.now_ms())
        begin = query_value(request, FROM) or max(end, _EPOCH + _SPANS[bucket]) - _SPANS[bucket]
        most, last = limit(request), after(request)
        beyond = _EPOCH - _MICROSECOND if last is None else _moment(last)
        rows = await self._reading.database.fetch(queries.statistics, bucket, begin, end, beyond, most + 1)
        next = cursor(_id(rows[most - 1]["at"])) if len(rows) > most else None
        return self._reading.items(request, [Bucket(*row) for row in rows[:most]], next, headers)


def _id(at: datetime) -> UUID:
    """A bucket as what cursors are made of."""
    return UUID(int=(at - _EPOCH) // _MICROSECOND)


def _moment(id: UUID) -> datetime:
    return _EPOCH + min(id.int, _MICROSECONDS_MAX) * _MICROSECOND
