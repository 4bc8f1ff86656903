"""What the rounds know about a candidate, and what a candidate is started with."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tally.local.guardian import Guardian
from tests.bench.databases import Database
from tests.bench.processes import LoadProcess
from tests.bench.slots import Result, Slot, Work


@dataclass(frozen=True)
class Ground:
    """A folder of the candidate's own on a disk, and what all candidates share.

    `load` loads those that speak HTTP, `guardian` ends what was started if the harness is killed,
    `environment` is that of every process that is measured.
    """

    folder: Path
    load: LoadProcess
    guardian: Guardian
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Candidate:
    """A started candidate with its entities loaded.

    `processes` are the roots of its process trees by name; their processor time is what it costs.
    `live_rows` is the query that counts attendances, on either side.
    """

    letter: str
    title: str
    works: frozenset[Work]
    author: Database
    conference: Database
    live_rows: str
    processes: Mapping[str, int]
    run: Callable[[Slot], Result]

    def rows(self) -> tuple[int, int]:
        """Attendances in the author's and in the conference's database."""
        return int(self.author.value(self.live_rows)), int(self.conference.value(self.live_rows))


Start = Callable[[Ground], AbstractContextManager[Candidate]]
