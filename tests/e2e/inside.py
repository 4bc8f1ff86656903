"""Programs that run inside the cluster, in the services' image: as a pod that may reach them, or as a stranger's."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.cluster import RELEASE, Cluster

_SECURITY: dict[str, Any] = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
KNOWN = {
    "app.kubernetes.io/name": "tally",
    "app.kubernetes.io/instance": RELEASE,
    "app.kubernetes.io/component": "test",
}


class Inside:
    """A pod that runs a script of this folder."""

    def __init__(self, cluster: Cluster, name: str, script: str, labels: Mapping[str, str] = KNOWN) -> None:
        self._cluster = cluster
        self._name = name
        code = Path(__file__).with_name(script).read_text()
        cluster.kubectl("delete", "pod,configmap", name, "--ignore-not-found", "--wait")
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"main.py": code}}
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(config))
        cluster.kubectl("create", "-f", "-", stdin=json.dumps(self._pod(labels)))

    def _pod(self, labels: Mapping[str, str]) -> dict[str, Any]:
        ports = {"author": 8070, "conference": 8080, "gateway": 8443}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": self._name, "labels": dict(labels)},
            "spec": {
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": {
                    "runAsNonRoot": True,
                    "runAsUser": 65532,
                    "seccompProfile": {"type": "RuntimeDefault"},
                },
                "containers": [
                    {
                        "name": "main",
                        "image": self._cluster.image,
                        "command": ["python", "/code/main.py"],
                        "env": [
                            {"name": f"{name.upper()}_URL", "value": f"http://{RELEASE}-{name}:{port}"}
                            for name, port in ports.items()
                        ],
                        "securityContext": _SECURITY,
                        "volumeMounts": [
                            {"name": "code", "mountPath": "/code"},
                            {"name": "tmp", "mountPath": "/tmp"},
                        ],
                    }
                ],
                "volumes": [
                    {"name": "code", "configMap": {"name": self._name}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        }

    def said(self) -> list[str]:
        return self._cluster.kubectl("logs", self._name).splitlines()

    def wait_for(self, line: str, timeout_s: float = 120) -> None:
        self._cluster.kubectl("wait", "pod", self._name, "--for=condition=Ready", f"--timeout={timeout_s:.0f}s")
        give_up = time.monotonic() + timeout_s
        while line not in self.said():
            assert time.monotonic() < give_up, f"{self._name} did not say {line!r}, but: {self.said()}"
            time.sleep(1)

    def stop(self) -> None:
        """Tells a script that looks for it to come to its end."""
        self._cluster.kubectl("exec", self._name, "--", "touch", "/tmp/stop")

    def ended(self, timeout_s: float = 120) -> list[str]:
        """What it has said when it has ended; the pod is gone then."""
        phase = "--for=jsonpath={.status.phase}=Succeeded"
        self._cluster.kubectl("wait", "pod", self._name, phase, f"--timeout={timeout_s:.0f}s")
        said = self.said()
        self._cluster.kubectl("delete", "pod,configmap", self._name, "--wait")
        return said
