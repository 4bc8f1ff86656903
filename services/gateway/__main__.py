"""``python -m services.gateway [serve]``"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from services.attendance import ATTENDANCE
from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.gateway.service import GatewaySettings, gateway


class Settings(GatewaySettings, frozen=True, kw_only=True):
    """Settings of the gateway."""

    port: Annotated[int, Meta(ge=0, le=65535, description="The public port; 0 takes any free one.")] = 8443
    author_url: Annotated[str, Meta(pattern="^https?://", description="Where the author service is.")] = (
        "http://127.0.0.1:8070"
    )
    conference_url: Annotated[str, Meta(pattern="^https?://", description="Where the conference service is.")] = (
        "http://127.0.0.1:8080"
    )
    directory_url: Annotated[str | None, Meta(description="Where the directory is: it has the log of operations.")] = (
        None
    )
    notifier_url: Annotated[
        str | None, Meta(description="Where the notifier is, for the page: whether it is there.")
    ] = None


def build(settings: Settings, signals: Signals) -> Service:
    urls = {"author": settings.author_url, "conference": settings.conference_url}
    others = {"directory": settings.directory_url, "notifier": settings.notifier_url}
    known = {name: url for name, url in others.items() if url is not None}
    return gateway(ATTENDANCE, "gateway", settings, signals, urls, known)


if __name__ == "__main__":
    main("gateway", Settings, build)
