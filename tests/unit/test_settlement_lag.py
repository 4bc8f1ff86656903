"""The settlement lag grows by itself while nobody settles: a settler that hangs can't say so."""

from __future__ import annotations

from services.attendance import ATTENDANCE
from tally.chassis.signals import Signals
from tally.halves.observer import Observed


class Clock:
    def __init__(self) -> None:
        self.at_s = 1000.0

    def monotonic_s(self) -> float:
        return self.at_s

    def now_ms(self) -> int:
        return int(self.at_s * 1000)


def lag(signals: Signals) -> float:
    [line] = [one for one in signals.exposition("")[0].decode().splitlines() if one.startswith("tally_settlement_lag")]
    return float(line.rpartition(" ")[2])


def test_the_lag_grows_from_the_start_and_from_each_settled_epoch_on() -> None:
    signals, clock = Signals("conference"), Clock()
    observed = Observed(signals, ATTENDANCE, clock)
    assert lag(signals) == 0
    clock.at_s += 90
    assert lag(signals) == 90
    observed.lag("attendance", 2.5)
    assert lag(signals) == 2.5
    clock.at_s += 30
    assert lag(signals) == 32.5
