"""A service that keeps what events tell, or tells of what it keeps: a database beside the stream: its settings,
and the connections of those who apply events."""

from __future__ import annotations

from typing import Annotated, Final

from msgspec import Meta

from tally.chassis.database import Database
from tally.chassis.database_url import DatabaseUrl
from tally.messaging.stream import StreamSettings

#: How long one statement of an event may take. An event that needs longer is tried again for ever.
_APPLY_S: Final = 60.0


class StoredSettings(StreamSettings, frozen=True, kw_only=True):
    """Settings of a service with a database and events."""

    database_url: DatabaseUrl
    pool_min: Annotated[int, Meta(ge=0, le=1000, description="Database connections that are kept open.")] = 1
    pool_max: Annotated[int, Meta(ge=4, le=1000, description="Database connections at most.")] = 10
    pool_wait_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds that a request waits for a database connection.")
    ] = 0.5
    clock_offset_ms: Annotated[int, Meta(description="Shifts the wall clock, for experiments.")] = 0


def applying(settings: StoredSettings, name: str) -> Database:
    """The connections of what applies events. One event may be much more work than a request: of the event that it ends
    very many may have lived."""
    return Database(settings.database_url, f"{name}-inbox", pool_max=4, statement_timeout_s=_APPLY_S)
