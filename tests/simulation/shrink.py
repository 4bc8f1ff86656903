"""Makes a failing plan small: fewer steps, fewer faults, plainer settings, as long as the same property breaks.

Delta debugging (Zeller and Hildebrandt, 2002) over the plan's entries. A storm that can't be taken away becomes the
hits that it really made, one entry for each message, and those are taken away one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from tests.simulation.plan import Plan, Settings, Step, Storm
from tests.simulation.world import Result

Entry = TypeVar("Entry")


class Shrinker:
    """Runs plans until its budget is used up; ``smallest`` is the best so far."""

    def __init__(self, failed: Result, run: Callable[[Plan], Result], runs_max: int = 400) -> None:
        assert failed.violation is not None
        self.smallest = failed
        self.runs = 0
        self._property = failed.violation.property
        self._run = run
        self._runs_max = runs_max

    def shrink(self) -> Result:
        self._fewer()
        self._explicit()
        self._plainer()
        self._fewer()
        return self.smallest

    def _fails(self, plan: Plan) -> bool:
        """Whether ``plan`` breaks the same property; if so, it is the smallest so far."""
        if self.runs >= self._runs_max:
            return False
        self.runs += 1
        result = self._run(plan)
        if result.violation is None or result.violation.property is not self._property:
            return False
        self.smallest = result
        return True

    def _fewer(self) -> None:
        plan = self.smallest.plan
        minimise(plan.entries, lambda entries: self._fails(plan.only(tuple(entries))))

    def _explicit(self) -> None:
        """Storms become the hits they made."""
        plan = self.smallest.plan
        calm = tuple(fault for fault in plan.faults if not isinstance(fault, Storm))
        if len(calm) < len(plan.faults) and self._fails(replace(plan, faults=calm + self.smallest.hits)):
            self._fewer()

    def _plainer(self) -> None:
        for settings in _plainer(self.smallest.plan.settings):
            self._fails(replace(self.smallest.plan, settings=settings(self.smallest.plan.settings)))
        for i in range(len(self.smallest.plan.steps)):
            for plain in ({"pause_s": 0.0}, {"give_up_s": None}, {"gateway": 0}):
                self._fails(_with_step(self.smallest.plan, i, plain))


def minimise(entries: Sequence[Entry], fails: Callable[[Sequence[Entry]], bool]) -> Sequence[Entry]:
    """The entries without those that aren't needed to fail: taking any one of the rest away mends it."""
    size = max(1, len(entries) // 2)
    while entries:
        for start in range(0, len(entries), size):
            fewer = [*entries[:start], *entries[start + size :]]
            if fails(fewer):
                entries = fewer
                break
        else:
            if size == 1:
                break
            size = max(1, size // 2)
    return entries


def _plainer(settings: Settings) -> Iterator[Callable[[Settings], Settings]]:
    for name, plain in (
        ("skew_ms", ()),
        ("latency_s", 0.002),
        ("attempt_timeout_s", 5.0),
        ("request_deadline_s", 2.0),
        ("lag_s", 2.0),
        ("period_s", 1.0),
        ("void_keep_ms", 60_000),
        ("list_max", 10_000),
        ("narrow", False),
        ("seats", tuple(None for _ in settings.seats)),
    ):
        if getattr(settings, name) != plain:
            yield lambda now, name=name, plain=plain: replace(now, **{name: plain})


def _with_step(plan: Plan, i: int, change: dict[str, object]) -> Plan:
    steps: list[Step] = [*plan.steps]
    steps[i] = replace(steps[i], **change)  # type: ignore[arg-type]
    return replace(plan, steps=tuple(steps))
