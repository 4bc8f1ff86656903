"""Processor time by process tree and of the whole machine, from Linux's /proc; nothing on other systems.

A tree's time is what its live processes have used plus what they have inherited from children that ended, so
a PostgreSQL backend counts whether it still runs or not.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
AVAILABLE = sys.platform == "linux"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
CORES = len(os.sched_getaffinity(0)) if AVAILABLE else os.cpu_count() or 1


@dataclass(frozen=True)
class Used:
    """Seconds of processor time: of each process tree that lives, and of all programs on the machine."""

    tree_s: Mapping[str, float]
    machine_s: float

    @property
    def others_s(self) -> float:
        """What everybody else used."""
        return max(0.0, self.machine_s - sum(self.tree_s.values()))

    def since(self, before: "Used") -> "Used":
        trees = {name: max(0.0, seconds - before.tree_s[name]) for name, seconds in self.tree_s.items()}
        return Used(trees, self.machine_s - before.machine_s)


def used(roots: Mapping[str, int]) -> Used | None:
    if not AVAILABLE:
        return None
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for pid, parent, own in processes():
        parents[pid], ticks[pid] = parent, own
    by_pid = {pid: name for name, pid in roots.items()}
    tree_ticks = dict.fromkeys(roots, 0)
    for pid in ticks:
        root = nearest_root(pid, parents, by_pid)
        if root is not None:
            tree_ticks[root] += ticks[pid]
    return Used({name: count * TICK_S for name, count in tree_ticks.items()}, machine_ticks() * TICK_S)


def processes() -> Iterator[tuple[int, int, int]]:
    """Process id, parent's id, and ticks used (own and inherited) of every process; proc_pid_stat(5)."""
    for folder in PROC.iterdir():
        if folder.name.isdigit():
            try:
                stat = (folder / "stat").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue  # It ended while we looked; its parent has inherited its time.
            # The name in brackets may hold spaces and brackets; the state and numbers follow the last one.
            fields = stat[stat.rindex(b")") + 2 :].split()
            yield int(folder.name), int(fields[1]), sum(map(int, fields[11:15]))


def nearest_root(pid: int, parents: Mapping[int, int], roots: Mapping[int, str]) -> str | None:
    at: int | None = pid
    while at:
        if at in roots:
            return roots[at]
        at = parents.get(at)
    return None


def machine_ticks() -> int:
    """User, nice, system and stolen time of all cores: what somebody's program used; proc_stat(5)."""
    fields = [int(field) for field in (PROC / "stat").read_text().split("\n", 1)[0].split()[1:]]
    return fields[0] + fields[1] + fields[2] + fields[7]
