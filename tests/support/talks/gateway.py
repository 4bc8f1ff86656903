"""``python -m tests.support.talks.gateway [serve]``"""

from __future__ import annotations

from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.gateway.service import GatewaySettings, gateway
from tests.support.talks import TALK


class Settings(GatewaySettings, frozen=True, kw_only=True):
    speakers_url: str
    programme_url: str


def build(settings: Settings, signals: Signals) -> Service:
    urls = {"speakers": settings.speakers_url, "programme": settings.programme_url}
    return gateway(TALK, "gateway", settings, signals, urls)


if __name__ == "__main__":
    main("gateway", Settings, build)
