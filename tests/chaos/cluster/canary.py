"""How long a process of the cluster was kept from running: what is late for that is no service's fault.

A pod on each node where services run sleeps a moment at a time, and says when it woke up late; the harness reads that
at the end. It asks for as little of the CPU as a service does. The clock is the kernel's, which all containers of this
machine share with the harness.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from tests.chaos.cluster.place import PART, Place
from tests.chaos.history import Recorder, Stall

NAME = "chaos-canary"
_CODE = """\
import time
while True:
    began_ns = time.monotonic_ns()
    time.sleep(0.02)
    late_ns = time.monotonic_ns() - began_ns - 20_000_000
    if late_ns > 30_000_000:
        print(time.monotonic_ns(), late_ns, flush=True)
"""


class Canaries:
    """One on each node that has a service's pod."""

    def __init__(self, place: Place) -> None:
        self._place = place
        nodes = {pod["spec"]["nodeName"] for pod in place.release.pods() if pod["metadata"]["labels"].get(PART)}
        self._names = [f"{NAME}-{node}" for node in sorted(nodes)]
        pods = [self._pod(name, node) for name, node in zip(self._names, sorted(nodes), strict=True)]
        place.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))

    def told(self, recorder: Recorder) -> None:
        """Record what they saw."""
        for name in self._names:
            for line in self._place.kubectl("logs", name).splitlines():
                at_ns, late_ns = map(int, line.split())
                recorder.write(Stall(at_ns, late_ns))

    def _pod(self, name: str, node: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app.kubernetes.io/name": NAME}},
            "spec": {
                "nodeName": node,
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "canary",
                        "image": self._place.image,
                        "command": _command(),
                        "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}},
                    }
                ],
            },
        }


def _command() -> Sequence[str]:
    return ["python", "-u", "-c", _CODE]
