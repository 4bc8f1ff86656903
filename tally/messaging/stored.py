"""The settings of a service that keeps what events tell, or tells of what it keeps: a database beside the stream."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from tally.chassis.database_url import DatabaseUrl
from tally.messaging.stream import StreamSettings


class StoredSettings(StreamSettings, frozen=True, kw_only=True):
    """Settings of a service with a database and events."""

    database_url: DatabaseUrl
    pool_min: Annotated[int, Meta(ge=0, le=1000, description="Database connections that are kept open.")] = 1
    pool_max: Annotated[int, Meta(ge=4, le=1000, description="Database connections at most.")] = 10
    pool_wait_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds that a request waits for a database connection.")
    ] = 0.5
    clock_offset_ms: Annotated[int, Meta(description="Shifts the wall clock, for experiments.")] = 0
