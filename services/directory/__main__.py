"""``python -m services.directory [serve | migrate]``"""

from __future__ import annotations

from services.directory.directory import NAME, SOURCES, DirectorySettings, directory
from tally.chassis.app import main

if __name__ == "__main__":
    main(NAME, DirectorySettings, directory, SOURCES)
