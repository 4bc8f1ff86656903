"""``python -m services.author [serve | migrate]``"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.attendance import ATTENDANCE
from services.author.author import AUTHOR
from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.halves.owner import OwnerSettings, owner, sources


class AuthorSettings(OwnerSettings, frozen=True, kw_only=True):
    """Settings of the author service."""

    port: Annotated[int, Meta(ge=0, le=65535, description="The public port; 0 takes any free one.")] = 8070
    conference_url: Annotated[str, Meta(pattern="^https?://", description="Where the conference service is.")] = (
        "http://127.0.0.1:8080"
    )


def build(settings: AuthorSettings, signals: Signals) -> Service:
    urls = {"conference": settings.conference_url}
    return owner(ATTENDANCE, "author", [AUTHOR], settings, signals, peer_urls=urls)


if __name__ == "__main__":
    main("author", AuthorSettings, build, sources(ATTENDANCE, "author"))
