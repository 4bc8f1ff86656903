"""Which fault is next, and whether it begins before the one before it is over. Pure: a seed gives the same order.

Assumes the files of k8s/faults; what is said here about one is how a run uses it, not what it does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tests.e2e.faults import Fault

SERVICES = ("author", "conference", "gateway")
"""Whom clients speak to."""

OVERLAP_SHARE = 0.4
"""How often the next fault does not wait for the end of the one before."""


@dataclass(frozen=True, slots=True)
class Use:
    """How a run uses a fault. `alone`: what is mended by the cluster must be all there, so nothing else is broken.

    `lead_s` is the time between the preparation and the beginning; `touches` are services that it restarts, stops or
    cuts off from their clients, beside the pods that the file names.
    """

    lasts_s: float = 10.0
    alone: bool = False
    lead_s: float = 0.0
    touches: tuple[str, ...] = ()


USES = {
    "api-server-down": Use(20, alone=True),
    "author-clock-fast": Use(30, alone=True, touches=("author",)),
    # The copy must be old: between it and the loss others write.
    "author-database-restored": Use(5, alone=True, lead_s=15),
    "conference-cut-off": Use(12),
    "conference-hung": Use(15),
    "dns-down": Use(20),
    "everything-killed": Use(5, alone=True, touches=SERVICES),
    # It ends when the last pod was replaced.
    "everything-restarted": Use(1, alone=True, touches=SERVICES),
    "gateway-starved-of-cpu": Use(15),
    # Nothing may be lost of what nobody has read yet: a copy of the broker's volume would not help then.
    "nats-wiped": Use(5, alone=True),
    "node-drained": Use(10, alone=True, touches=SERVICES),
}
"""Those that are used otherwise than as a rule."""


def use_of(name: str) -> Use:
    return USES.get(name, Use())


def touched(fault: Fault) -> tuple[str, ...]:
    """Who owes no answer while it lasts: the part whose pods it breaks, and whom it touches beside."""
    part = fault.pods.get("component")
    others = use_of(fault.name).touches
    return (part, *(name for name in others if name != part)) if part else others or (fault.name.split("-")[0],)


@dataclass(frozen=True, slots=True)
class Slot:
    """A fault whose turn it is; `overlaps` if it begins in the middle of the one before."""

    fault: Fault
    lasts_s: float
    overlaps: bool


def schedule(faults: Sequence[Fault], random: Random) -> Iterator[Slot]:
    """For ever: each fault once, in a new order each time."""
    going: list[Fault] = []
    while faults:
        for fault in random.sample(faults, len(faults)):
            overlaps = _goes_with(going, fault) and random.random() < OVERLAP_SHARE
            lasts_s = use_of(fault.name).lasts_s * random.uniform(0.8, 1.2)
            yield Slot(fault, lasts_s, overlaps)
            going = [*going, fault] if overlaps else [fault]


def _goes_with(going: Sequence[Fault], fault: Fault) -> bool:
    """Whether it breaks another part than those: a rule can't be taken out of the network of a pod that is gone."""
    if not going or any(use_of(one.name).alone for one in (*going, fault)):
        return False
    return not any(set(touched(one)) & set(touched(fault)) for one in going)
