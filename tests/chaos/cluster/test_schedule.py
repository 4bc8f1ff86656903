"""Every fault has its turn, and two overlap only if they break different parts."""

from itertools import islice
from random import Random

from tests.chaos.cluster.schedule import SERVICES, USES, Slot, schedule, touched, use_of
from tests.e2e.faults import Fault

FAULTS = Fault.all()


def drawn(seed: int, rounds: int = 20) -> list[Slot]:
    return list(islice(schedule(FAULTS, Random(seed)), rounds * len(FAULTS)))


def test_there_are_twelve_faults_and_more() -> None:
    assert len(FAULTS) >= 12


def test_what_is_said_of_a_use_is_of_a_fault_that_is_there() -> None:
    assert USES.keys() <= {fault.name for fault in FAULTS}


def test_each_fault_has_its_turn_before_one_comes_again() -> None:
    slots = drawn(1, rounds=3)
    for start in range(0, len(slots), len(FAULTS)):
        names = [slot.fault.name for slot in slots[start : start + len(FAULTS)]]
        assert sorted(names) == sorted(fault.name for fault in FAULTS)


def test_a_seed_gives_the_same_order_and_another_seed_another() -> None:
    assert drawn(7) == drawn(7)
    assert drawn(7) != drawn(8)


def test_some_overlap_and_those_break_different_parts() -> None:
    going: list[Slot] = []
    overlapping = 0
    for slot in drawn(3):
        going = [*going, slot] if slot.overlaps else [slot]
        overlapping += slot.overlaps
        parts = [part for one in going for part in touched(one.fault)]
        assert len(parts) == len(set(parts))
        assert len(going) == 1 or not any(use_of(one.fault.name).alone for one in going)
    assert overlapping


def test_every_fault_lasts_a_bounded_time() -> None:
    assert all(0 < slot.lasts_s <= 60 for slot in drawn(5))


def test_a_fault_without_pods_of_its_own_says_whom_it_touches() -> None:
    by_name = {fault.name: fault for fault in FAULTS}
    assert touched(by_name["author-slow"]) == ("author",)
    assert touched(by_name["author-database-killed"]) == ("author-database",)
    assert set(touched(by_name["node-drained"])) == set(SERVICES)
    assert touched(by_name["dns-down"]) == ("dns",)


def test_no_faults_is_no_schedule() -> None:
    assert list(schedule([], Random(1))) == []
