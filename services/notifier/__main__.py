"""``python -m services.notifier [serve | migrate]``"""

from __future__ import annotations

from services.notifier.notifier import NAME, SOURCES, NotifierSettings, notifier
from tally.chassis.app import main

if __name__ == "__main__":
    main(NAME, NotifierSettings, notifier, SOURCES)
