"""Applies the faults of a schedule to a release, one after the other and partly overlapping, and mends each.

Assumes that only we break it. A fault is over when its steps to mend it are done and all of the release is ready again;
if a step fails (a rule can't be taken out of a pod that is gone), the pods it was about are replaced, which mends all
that was done to them. Nothing is begun after the end of the load, and whatever was begun is mended, also when the run
is interrupted: each fault has a thread of its own, which is told to stop and is waited for.
"""

from __future__ import annotations

import asyncio
import subprocess
import threading
from collections.abc import Iterator

import structlog

from tests.chaos.cluster.place import NotReady, Place
from tests.chaos.cluster.schedule import Slot, touched, use_of
from tests.chaos.history import Fault, Healed, Recorder, now_ns

CALM_S = 3.0
"""Between the end of one fault and the beginning of one that does not overlap it."""

READY_TIMEOUT_S = 150.0
"""Until all of the release is ready again: new pods on a slow machine, one after the other."""

FAILURES = (subprocess.CalledProcessError, subprocess.TimeoutExpired, AssertionError, IndexError, OSError)
"""What applying a step raises where the cluster does not do what it is told."""

log = structlog.get_logger()


class Nemesis:
    """Strikes a release until told to stop; then everything runs again."""

    def __init__(self, place: Place, recorder: Recorder, schedule: Iterator[Slot]) -> None:
        self._place = place
        self._recorder = recorder
        self._schedule = schedule
        self._stop = threading.Event()

    async def run(self, until_s: float) -> None:
        """Strike until the loop's time is `until_s`, and mend what was struck."""
        striking: set[asyncio.Task[None]] = set()
        try:
            await self._strike_until(until_s, striking)
            await _all(striking)
        finally:
            self._stop.set()
            await _all(striking)

    async def _strike_until(self, until_s: float, striking: set[asyncio.Task[None]]) -> None:
        time = asyncio.get_running_loop().time
        before_s = 0.0
        for slot in self._schedule:
            if slot.overlaps:
                await asyncio.sleep(before_s / 2)
            else:
                await _all(striking)
                await asyncio.sleep(min(CALM_S, max(0.0, until_s - time())))
            if time() >= until_s:
                return
            striking.add(asyncio.create_task(asyncio.to_thread(self._strike, slot)))
            before_s = slot.lasts_s

    # -- in threads

    def _strike(self, slot: Slot) -> None:
        fault = slot.fault
        if fault.before:
            try:
                fault.prepare(self._place.release)
            except FAILURES as error:
                log.warning("could not be prepared, and is left out", fault=fault.name, error=_said(error))
                return
            self._stop.wait(use_of(fault.name).lead_s)
        log.info(fault.breaks, fault=fault.name)
        numbers = [self._begun(fault.name, target) for target in touched(fault)]
        try:
            with fault.on(self._place.release):
                self._stop.wait(slot.lasts_s)
        except FAILURES as error:
            log.warning("a step failed: the pods are replaced", fault=fault.name, error=_said(error))
            self._replace(slot)
        self._wait_mended(slot)
        for number in numbers:
            self._recorder.write(Healed(number, now_ns()))
        log.info("mended", fault=fault.name)

    def _wait_mended(self, slot: Slot) -> None:
        """Until all is ready; what does not come back by itself is replaced, once."""
        try:
            self._place.wait_ready(READY_TIMEOUT_S)
        except NotReady as error:
            log.warning("the pods are replaced", fault=slot.fault.name, error=str(error))
            self._replace(slot)
            self._place.wait_ready(READY_TIMEOUT_S)

    def _begun(self, name: str, target: str) -> int:
        number = self._recorder.number()
        self._recorder.write(Fault(number, now_ns(), name, target))
        return number

    def _replace(self, slot: Slot) -> None:
        for part in touched(slot.fault):
            self._place.restart(part)


async def _all(striking: set[asyncio.Task[None]]) -> None:
    """Wait for all, and tell of one that failed. Whoever is cancelled here leaves them to go on."""
    if striking:
        done, _ = await asyncio.wait(striking)
        for task in done:
            task.result()


def _said(error: BaseException) -> str:
    told = getattr(error, "stderr", None) or str(error)
    return str(told).strip()[-300:]
