"""Who kills, pauses, restarts, switches faults on and lets guests in: at random moments, up to two at once, and always
puts things right again.

Assumes a stack that does not restart anybody by itself, so that the nemesis says how long somebody is down; whoever is
found dead without its doing is recorded as `died`, which no history may hold.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any

import psutil

from tally.local.failure import LocalError
from tally.local.operator import Operator
from tally.local.stack import POSTGRES, LocalStack
from tests.chaos.cast import ATTENDING, GATEWAY, Cast
from tests.chaos.guests import Visit
from tests.chaos.history import GUESTS, Fault, Healed, Recorder, now_ns
from tests.chaos.impostors import IMPOSTORS, at

Strike = tuple[str, str]
"""A fault and its target."""

DIED = "died"
_PAUSE = ("pause", "long-pause")
_OWNERS = ATTENDING.owners
_SERVICES = (GATEWAY, *_OWNERS)
_KILLS: dict[Strike, float] = {
    **{("kill", service): 3 for service in _SERVICES},
    ("kill", POSTGRES): 3,
    ("crash", POSTGRES): 2,
    **{("restart", service): 1 for service in _SERVICES},
}
_PAUSES: dict[Strike, float] = {**{("pause", service): 3 for service in _SERVICES}, ("pause", POSTGRES): 2}

SWITCHED: dict[str, dict[str, Any]] = {
    "error": {"rate": 0.5},
    "latency": {"latency_ms": 500, "jitter_ms": 250},
    "reset": {"rate": 0.5},
    "cut": {"rate": 0.5},
    "hang": {"rate": 0.3},
    "duplicate": {"rate": 0.5},
    "pool": {},
    "not-ready": {},
}
"""What the services' own fault switch does, and how; clients see it only through the gateway."""

_DOWNSTREAM: dict[Strike, float] = {
    **{("kill", who): 2 for who in ("nats", "directory", "notifier", "mail")},
    **{("stop", who): 1 for who in ("nats", "notifier")},
}
_STALE: dict[Strike, float] = {(fault, service): 1 for fault in IMPOSTORS for service in _OWNERS}
_CROWDS: dict[Strike, float] = {("crowd", service): 1 for service in _SERVICES}
_STRANGERS: dict[Strike, float] = {("strangers", service): 1 for service in _OWNERS}
_FLOODS: dict[Strike, float] = {("flood", "gateway"): 1}
_STOPS: dict[Strike, float] = {("stop", service): 1 for service in _OWNERS}
_LONG_PAUSES: dict[Strike, float] = {("long-pause", service): 1 for service in _OWNERS}


def _switched(*kinds: str) -> dict[Strike, float]:
    return {(kind, service): 2 for kind in kinds for service in _OWNERS}


SCENARIOS: dict[str, dict[Strike, float]] = {
    "kills": _KILLS,
    "pauses": _PAUSES,
    "stops": _STOPS,
    "long-pauses": _LONG_PAUSES,
    "latency": _switched("latency"),
    "errors": _switched("error", "pool", "not-ready"),
    "floods": _FLOODS,
    "resets": {**_switched("reset", "cut", "duplicate"), **_STALE},
    "hangs": _switched("hang"),
    "crowds": _CROWDS,
    "strangers": _STRANGERS,
    "faults": _switched(*SWITCHED),
    "events": {**_DOWNSTREAM, ("kill", "author"): 1, ("kill", "conference"): 1, ("kill", POSTGRES): 1},
    "broker": {("long-stop", "nats"): 1},
    "all": {
        **_KILLS, **_PAUSES, **_STOPS, **_switched(*SWITCHED), **_STALE, **_CROWDS, **_STRANGERS, **_FLOODS,
        **_DOWNSTREAM,
    },
    "none": {},
}  # fmt: skip
"""What strikes in the relationship that ships."""

STATEMENTS = (
    "stops", "long-pauses", "latency", "errors", "floods", "resets", "hangs", "crowds", "strangers",
)  # fmt: skip
"""What is stated of resilience, one scenario each (docs/chaos.md): a service is stopped, paused, slow, failing,
drowning, cut off, in doubt, crowded, asked by strangers."""


def strikes_of(scenario: str, cast: Cast) -> dict[Strike, float]:
    """A scenario's strikes with the cast's own services in their parts; without who does not play."""
    parts = dict(zip(_OWNERS, cast.owners, strict=True))
    there = {POSTGRES, *(program.name for program in cast.programs)}
    strikes = {(fault, parts.get(who, who)): weight for (fault, who), weight in SCENARIOS[scenario].items()}
    return {strike: weight for strike, weight in strikes.items() if strike[1] in there}


STRUCK_MAX = 2
"""So many targets are down at once at most; the others must be of use meanwhile."""

OVERLAP_SHARE = 0.25
"""How often somebody is struck while another is still down, or nothing works yet."""

CALM_S = (0.3, 3.0)
WORK_TIMEOUT_S = 15.0
DOWN_S = (0.05, 1.0)
LASTS_S = {
    "pause": (0.2, 4.0),
    "long-pause": (25.0, 30.0),
    "long-stop": (120.0, 120.0),
    "stop": (4.0, 8.0),
    **dict.fromkeys(SWITCHED, (1.0, 6.0)),
    **dict.fromkeys(IMPOSTORS, (3.0, 8.0)),
    **dict.fromkeys(GUESTS, (2.0, 5.0)),
}
"""What is down for longer, or shorter, than `DOWN_S`."""
START_TIMEOUT_S = 60.0
POLL_S = 0.05


class Nemesis:
    """Strikes a stack until told to stop; then everything runs again."""

    def __init__(
        self,
        stack: LocalStack,
        recorder: Recorder,
        random: Random,
        strikes: Mapping[Strike, float],
        cast: Cast,
        progress: Callable[[], int],
        visits: Mapping[str, Visit],
    ) -> None:
        """`strikes` may happen, by their weights; `progress` counts what the clients got done; `visits` has the guests,
        by the names of their faults."""
        self._stack = stack
        self._recorder = recorder
        self._random = random
        self._progress = progress
        self._strikes = strikes
        self._visits = visits
        self._cast = cast
        self._struck: set[str] = set()
        self._operator = Operator(stack.places, stack.folder)
        self._faults: dict[str, Callable[[str], None]] = {
            "kill": stack.kill,
            "crash": self._crash,
            "restart": stack.stop_service,
            "stop": stack.stop_service,
            "long-stop": stack.stop_service,
            **{kind: partial(self._switch_on, kind) for kind in SWITCHED},
            DIED: lambda target: None,
        }

    async def run(self, until_s: float) -> None:
        """Strike until the loop's time is `until_s`, and heal what was struck."""
        clock = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as strikes:
            while clock() < until_s:
                if self._random.random() > OVERLAP_SHARE:
                    await self._work(min(until_s, clock() + WORK_TIMEOUT_S))
                await asyncio.sleep(min(self._random.uniform(*CALM_S), max(0.0, until_s - clock())))
                for find in (self._found_dead, self._chosen):
                    for fault, target in find():
                        self._struck.add(target)
                        strikes.create_task(self._strike(fault, target))

    async def _work(self, until_s: float) -> None:
        """Wait until nobody is struck and something was done since: there must be work to disturb."""
        await _until(lambda: not self._struck, until_s)
        before = self._progress()
        await _until(lambda: self._progress() != before, until_s)

    def _found_dead(self) -> list[Strike]:
        """Who is not struck should be alive."""
        return [(DIED, target) for target in set(self._stack.names) - self._struck - self._stack.running().keys()]

    def _chosen(self) -> list[Strike]:
        """One strike at somebody who is not struck."""
        possible = {strike: weight for strike, weight in self._strikes.items() if strike[1] not in self._struck}
        if not possible or len(self._struck) >= STRUCK_MAX:
            return []
        return self._random.choices(list(possible), list(possible.values()))

    async def _strike(self, fault: str, target: str) -> None:
        lasts_s = self._random.uniform(*LASTS_S.get(fault, DOWN_S))
        number = self._recorder.number()
        self._recorder.write(Fault(number, now_ns(), fault, target))
        if fault in _PAUSE:
            await self._pause(target, lasts_s)
        elif fault in self._visits:
            await self._visits[fault](target, lasts_s)
        elif fault in IMPOSTORS:
            await self._replace(fault, target, lasts_s)
        else:
            await asyncio.to_thread(self._faults[fault], target)
            await asyncio.sleep(lasts_s)
        await asyncio.to_thread(self._heal, fault, target)
        self._recorder.write(Healed(number, now_ns()))
        self._struck.discard(target)

    async def _pause(self, target: str, lasts_s: float) -> None:
        """SIGSTOP and SIGCONT, whatever happens in between: nobody else knows of the backends that were stopped."""
        family = self._family(target)
        try:
            _send(family, signal.SIGSTOP)
            await asyncio.sleep(lasts_s)
        finally:
            _send(family, signal.SIGCONT)

    async def _replace(self, fault: str, target: str, lasts_s: float) -> None:
        """Its address is somebody else's for a while."""
        await asyncio.to_thread(self._stack.stop_service, target)
        here = self._stack.places[target]
        async with at(fault, here.host, here.port):
            await asyncio.sleep(lasts_s)

    # -- in threads

    def _crash(self, target: str) -> None:
        """SIGKILL one backend: PostgreSQL ends all others, and recovers by itself."""
        backends = psutil.Process(self._stack.process(target)).children()
        words = ("idle", self._cast.relationship.name)
        serving = [backend for backend in backends if any(word in _title(backend) for word in words)]
        with suppress(psutil.NoSuchProcess):
            self._random.choice(serving or backends).kill()

    def _switch_on(self, kind: str, target: str) -> None:
        fault = {"kind": kind, "expires_s": 60, "seed": self._random.randrange(1_000_000), **SWITCHED[kind]}
        self._operator.set_faults(target, [{"path": "/internal/", **fault}])

    def _heal(self, fault: str, target: str) -> None:
        if fault in SWITCHED:
            self._operator.set_faults(target, [])
        if fault in ("kill", "restart", "stop", "long-stop", DIED, *IMPOSTORS):
            self._start(target)
        elif target == POSTGRES:
            # It says "ready" in its file while it recovers from a crash.
            self._patiently(lambda: self._stack.postgres.execute("SELECT 1"))
        else:
            self._stack.wait_ready(target, timeout_s=START_TIMEOUT_S)

    def _family(self, target: str) -> list[int]:
        """A service is one process; PostgreSQL is paused with all its backends, parent first."""
        pid = self._stack.process(target)
        if target != POSTGRES:
            return [pid]
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]

    def _start(self, target: str) -> None:
        """Start, again if need be: the launcher may not have noticed yet that it died, and its database may be down."""
        if target == POSTGRES:
            self._patiently(self._stack.postgres.start)
        else:
            self._patiently(lambda: self._stack.start_service(target, timeout_s=START_TIMEOUT_S))

    @staticmethod
    def _patiently(do: Callable[[], object]) -> None:
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                do()
                return
            except LocalError:
                if time.monotonic() > give_up_s:
                    raise
            time.sleep(0.1)


def _send(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


async def _until(holds: Callable[[], bool], until_s: float) -> None:
    clock = asyncio.get_running_loop().time
    while not holds():
        if clock() >= until_s:
            return
        await asyncio.sleep(POLL_S)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
