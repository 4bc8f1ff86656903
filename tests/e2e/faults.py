"""Applies a fault of k8s/faults to a release on a kind cluster, and mends it.

    python -m tests.e2e.faults author-slow --seconds 20 [--namespace tally]

    with Fault.read("author-slow").on(release):
        …

The files' format is in k8s/faults/README.md. Which pod `count: one` means is drawn as the fault begins, and kept until
it ends. A step that fails raises, unless the file says that it may.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import string
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tally.local.ask import ask

FOLDER = Path(__file__).resolve().parents[2] / "k8s" / "faults"
KINDS = ("kubectl", "network", "node", "host", "faults")
ADMIN_PORTS = {"author": 9070, "conference": 9080, "gateway": 9443, "directory": 9060, "notifier": 9050}


@dataclass(frozen=True, slots=True)
class Release:
    """Where faults are applied: a release on a kind cluster, whose nodes are containers of this machine."""

    namespace: str
    name: str = "tally"
    cluster: str = "tally"

    def kubectl(self, *arguments: str) -> str:
        return _run(["kubectl", "--namespace", self.namespace, *arguments])

    def pods(self, component: str | None = None) -> list[Mapping[str, Any]]:
        """The running pods of a part, or all."""
        selector = f"{self.selector},app.kubernetes.io/component={component}" if component else self.selector
        found = json.loads(self.kubectl("get", "pods", "-l", selector, "-o", "json"))["items"]
        return [pod for pod in found if pod["status"].get("podIP") and "deletionTimestamp" not in pod["metadata"]]

    @property
    def selector(self) -> str:
        return f"app.kubernetes.io/instance={self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """A pod, as steps name it."""

    pod: str
    component: str
    node: str
    ip: str
    container: str

    @classmethod
    def of(cls, pod: Mapping[str, Any]) -> Target:
        return cls(
            pod["metadata"]["name"],
            pod["metadata"]["labels"]["app.kubernetes.io/component"],
            pod["spec"]["nodeName"],
            pod["status"]["podIP"],
            pod["status"]["containerStatuses"][0].get("containerID", "").rpartition("/")[2],
        )

    def on_node(self, command: str) -> str:
        return _run(["docker", "exec", self.node, "sh", "-c", command])

    def pid(self) -> str:
        """Of the container's first process, as the node sees it."""
        return self.on_node(f"ctr -n k8s.io task ls | awk '$1==\"{self.container}\" {{print $2}}'").strip()

    def cgroup(self, pid: str) -> str:
        """The container's folder of the CPU controller; version 1 has one tree for each controller."""
        look = f"awk -F: '$2==\"\" || $2 ~ /(^|,)cpu(,|$)/ {{print $2, $3}}' /proc/{pid}/cgroup | sort | tail -n 1"
        controllers, _, path = self.on_node(look).rstrip("\n").rpartition(" ")
        return f"/sys/fs/cgroup/{controllers}{path}" if controllers else f"/sys/fs/cgroup{path}"


@dataclass
class Fault:
    """One file."""

    name: str
    breaks: str
    pods: Mapping[str, str] = field(default_factory=dict)
    peers: Mapping[str, str] | None = None
    before: Sequence[Mapping[str, Any]] = ()
    begin: Sequence[Mapping[str, Any]] = ()
    end: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def read(cls, name: str) -> Fault:
        return cls(name, **yaml.safe_load((FOLDER / f"{name}.yaml").read_text()))

    @classmethod
    def all(cls) -> list[Fault]:
        return [cls.read(file.stem) for file in sorted(FOLDER.glob("*.yaml"))]

    def prepare(self, release: Release) -> None:
        """What must be done long before, such as taking a copy."""
        _Applied(self, release).do(self.before)

    @contextmanager
    def on(self, release: Release) -> Iterator[None]:
        """The fault, for the block."""
        applied = _Applied(self, release)
        try:
            applied.do(self.begin)
            yield
        finally:
            applied.do(self.end)


class _Applied:
    """A fault with the pods that it was drawn for."""

    def __init__(self, fault: Fault, release: Release) -> None:
        self._release = release
        self._targets: list[Target] = []
        peers: list[str] = []
        if fault.pods:
            found = [Target.of(pod) for pod in release.pods(fault.pods["component"])]
            self._targets = found if fault.pods["count"] == "all" else [random.choice(found)]
        if fault.peers is not None:
            ours = {target.pod for target in self._targets}
            near = release.pods(fault.peers.get("component"))
            peers = [pod["status"]["podIP"] for pod in near if pod["metadata"]["name"] not in ours]
        self._variables = {
            "PEERS": ",".join(peers),
            "FULLNAME": release.name,
            "RELEASE": release.selector,
            "CLUSTER": release.cluster,
        }
        pids = [target.pid() if self._needs(fault, "PID", "CGROUP") else "" for target in self._targets]
        self._of = [self._of_target(target, pid) for target, pid in zip(self._targets, pids, strict=True)]

    @staticmethod
    def _needs(fault: Fault, *names: str) -> bool:
        steps = str([*fault.before, *fault.begin, *fault.end])
        return "'network'" in steps or any(f"${name}" in steps for name in names)

    def _of_target(self, target: Target, pid: str) -> dict[str, str]:
        own = {"POD": target.pod, "POD_IP": target.ip, "NODE": target.node, "PID": pid}
        return {**self._variables, **own, "CGROUP": target.cgroup(pid) if pid else ""}

    def do(self, steps: Sequence[Mapping[str, Any]]) -> None:
        for step in steps:
            try:
                self._do(step)
            except subprocess.CalledProcessError:
                if not step.get("mayFail"):
                    raise

    def _do(self, step: Mapping[str, Any]) -> None:
        (kind,) = step.keys() & set(KINDS)
        what = step[kind]
        if kind == "host":
            _run(["sh", "-c", _filled(what, self._variables)])
        elif kind == "kubectl" and not any("$POD" in part or "$NODE" in part for part in what):
            self._release.kubectl(*(_filled(part, self._variables) for part in what))
        else:
            for target, variables in zip(self._targets, self._of, strict=True):
                self._do_to(target, variables, kind, what)

    def _do_to(self, target: Target, variables: Mapping[str, str], kind: str, what: Any) -> None:
        match kind:
            case "kubectl":
                self._release.kubectl(*(_filled(part, variables) for part in what))
            case "node":
                target.on_node(_filled(what, variables))
            case "network":
                target.on_node(f"nsenter -t {variables['PID']} -n sh -c '{_filled(what, variables)}'")
            case "faults":
                self._set_faults(target, what)

    def _set_faults(self, target: Target, faults: Sequence[Mapping[str, Any]]) -> None:
        account = f"{self._release.name}-operator"
        token = self._release.kubectl("create", "token", account, "--audience", target.component).strip()
        with _forwarded(self._release, target.pod, ADMIN_PORTS[target.component]) as port:
            headers = {"Authorization": f"Bearer {token}"}
            answer = ask("PUT", f"http://127.0.0.1:{port}/admin/faults", {"faults": list(faults)}, headers=headers)
        assert answer.status == 200, answer.says()


@contextmanager
def _forwarded(release: Release, pod: str, port: int) -> Iterator[int]:
    command = ["kubectl", "--namespace", release.namespace, "port-forward", f"pod/{pod}", f":{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline().split("127.0.0.1:")[1].split(" ")[0])
        finally:
            process.terminate()


def _filled(text: str, variables: Mapping[str, str]) -> str:
    return string.Template(text).safe_substitute(variables)


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        error.add_note(done.stderr)
        raise error
    return done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("fault", choices=[fault.name for fault in Fault.all()])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--namespace", default="tally")
    arguments = parser.parse_args()
    release = Release(arguments.namespace, cluster=os.environ.get("CLUSTER") or "tally")
    fault = Fault.read(arguments.fault)
    fault.prepare(release)
    print(fault.breaks, flush=True)
    with fault.on(release):
        time.sleep(arguments.seconds)
    print("Mended.")


if __name__ == "__main__":
    main()
