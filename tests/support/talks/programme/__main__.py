"""``python -m tests.support.talks.programme [serve | migrate]``"""

from __future__ import annotations

from tally.chassis.app import Service, main
from tally.chassis.signals import Signals
from tally.halves.owner import RightSettings, owner, sources
from tests.support.talks import CALLERS, TALK
from tests.support.talks.programme.session import SESSION


class Settings(RightSettings, frozen=True, kw_only=True):
    speakers_url: str
    token_callers: str = CALLERS


def build(settings: Settings, signals: Signals) -> Service:
    urls = {"speakers": settings.speakers_url}
    return owner(TALK, "programme", [SESSION], settings, signals, urls, __package__)


if __name__ == "__main__":
    main("programme", Settings, build, sources(TALK, "programme", __package__))
