"""``python -m services.conference [serve | migrate]``"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.attendance import ATTENDANCE
from services.conference.conference import CONFERENCE
from services.conference.event import EVENT
from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.halves.owner import RightSettings, owner, sources


class ConferenceSettings(RightSettings, frozen=True, kw_only=True):
    """Settings of the conference service."""

    port: Annotated[int, Meta(ge=0, le=65535, description="The public port; 0 takes any free one.")] = 8080
    author_url: Annotated[str, Meta(pattern="^https?://", description="Where the author service is.")] = (
        "http://127.0.0.1:8070"
    )


def build(settings: ConferenceSettings, signals: Signals) -> Service:
    urls = {"author": settings.author_url}
    return owner(ATTENDANCE, "conference", [CONFERENCE, EVENT], settings, signals, peer_urls=urls)


if __name__ == "__main__":
    main("conference", ConferenceSettings, build, sources(ATTENDANCE, "conference"))
