"""``python -m tests.support.talks.speakers [serve | migrate]``"""

from __future__ import annotations

from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.halves.owner import OwnerSettings, owner, sources
from tests.support.talks import CALLERS, TALK
from tests.support.talks.speakers.speaker import SPEAKER


class Settings(OwnerSettings, frozen=True, kw_only=True):
    programme_url: str
    token_callers: str = CALLERS


def build(settings: Settings, signals: Signals) -> Service:
    urls = {"programme": settings.programme_url}
    return owner(TALK, "speakers", [SPEAKER], settings, signals, urls, __package__)


if __name__ == "__main__":
    main("speakers", Settings, build, sources(TALK, "speakers", __package__))
