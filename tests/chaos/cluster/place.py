"""The release that is struck, in a namespace of its own, and doors to it: NodePorts of the control plane's node.

A door leads to whatever pod is ready, so it outlives each of them, and needs no API server; `kubectl port-forward`
would die with its pod. The harness comes in from the kind network, which is let in by a policy of the run's own.

Settings, all of them variables: those of k8s/cluster (CLUSTER, IMAGE, BASE_IMAGE, …), KUBECONFIG, HELM_ARGS, and

    CHAOS_NAMESPACE     where the release is installed (tally-chaos); it is removed at the end
    CHAOS_KEEP          set to anything: it is left as it is
    CHAOS_AS_IS         set to anything: the cluster is there and has the image; nothing is built
"""

from __future__ import annotations

import base64
import json
import os
import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import structlog

from tests.chaos.cluster.schedule import SERVICES
from tests.e2e.cluster import RELEASE, ROOT, Cluster, CommandFailed, run
from tests.e2e.faults import Release

INSTANCE, PART = "app.kubernetes.io/instance", "app.kubernetes.io/component"
DATABASES = ("author", "conference", "directory")
DOORS = {
    **dict.fromkeys(SERVICES, "http"),
    **{f"{service}-database": "postgres" for service in DATABASES},
    "mail": "http",
}
"""Parts of the release, and the name of the port behind the door."""

SETTLED_LOOKS = 2
LOOK_S = 2.0
OPEN_TIMEOUT_S = 60.0
DEFAULT_IMAGE = "tally:chaos"

log = structlog.get_logger()


class NotReady(Exception):
    """Something of the release did not come back in time."""


@dataclass(frozen=True, slots=True)
class Doors:
    """Where the parts are, for a program of this machine."""

    urls: dict[str, str]
    dsns: dict[str, str]


class Place:
    """The release and its namespace."""

    def __init__(self, namespace: str, kind_cluster: str, image: str) -> None:
        self.image = image
        self.release = Release(namespace, RELEASE, kind_cluster)
        self._cluster = Cluster(namespace, image, image)
        self._kind = kind_cluster

    @classmethod
    def of_environment(cls) -> Place:
        namespace = os.environ.get("CHAOS_NAMESPACE") or "tally-chaos"
        return cls(namespace, os.environ.get("CLUSTER") or "tally", os.environ.get("IMAGE") or DEFAULT_IMAGE)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._cluster.kubectl(*arguments, stdin=stdin)

    # -- making and removing

    @contextmanager
    def made(self) -> Iterator[Doors]:
        """The cluster if it is not there, the release from nothing, and its doors; removed at the end."""
        if not os.environ.get("CHAOS_AS_IS"):
            os.environ["IMAGE"] = self.image
            run(str(ROOT / "k8s" / "cluster"), timeout_s=1200)
        self._mend()
        self._remove()
        self.kubectl("create", "namespace", self.release.namespace)
        try:
            self._install()
            yield self._open()
        finally:
            if not os.environ.get("CHAOS_KEEP"):
                self._leave()

    def _install(self) -> None:
        repository, _, tag = self.image.rpartition(":")
        given = {
            "image.repository": repository,
            "image.tag": tag,
            "databases.bundled.image": os.environ.get("POSTGRES_IMAGE"),
            "nats.bundled.image": os.environ.get("NATS_IMAGE"),
        }
        chart = [str(ROOT / "charts" / "tally"), "--values", str(ROOT / "k8s" / "values.yaml")]
        values = [f"--set={name}={value}" for name, value in given.items() if value]
        quiet = "--set=defaults.settings.TALLY_ACCESS_LOG=errors"
        more = shlex.split(os.environ.get("HELM_ARGS", ""))
        self._cluster.helm("upgrade", *chart, "--install", "--wait", "--timeout", "10m", *values, quiet, *more)

    def _remove(self) -> None:
        if self.kubectl("get", "namespace", self.release.namespace, "--ignore-not-found").strip():
            self._cluster.helm("uninstall", "--ignore-not-found", "--wait", "--timeout", "3m")
            self.kubectl("delete", "namespace", self.release.namespace, "--timeout=180s")

    def _leave(self) -> None:
        """Remove it; a cluster that is slow to forget takes no verdict away."""
        try:
            self._remove()
        except CommandFailed as error:
            log.warning("something was left behind", namespace=self.release.namespace, error=str(error)[-300:])

    def _mend(self) -> None:
        """What a run that was killed may have left broken beyond its namespace."""
        self.kubectl("-n", "kube-system", "scale", "deployment", "coredns", "--replicas=2")
        for node in self.kubectl("get", "nodes", "-o", "name").split():
            self.kubectl("uncordon", node)

    # -- doors

    def _open(self) -> Doors:
        networks = json.loads(run("docker", "network", "inspect", "kind"))[0]["IPAM"]["Config"]
        subnets = [network["Subnet"] for network in networks if "." in network["Subnet"]]
        manifests = [_door(part, port) for part, port in DOORS.items()]
        made = {"apiVersion": "v1", "kind": "List", "items": [*manifests, _let_in(subnets)]}
        self.kubectl("apply", "-f", "-", stdin=json.dumps(made))
        host = self._node_address()
        ports = {
            service["metadata"]["name"]: service["spec"]["ports"][0]["nodePort"]
            for service in self._cluster.get("services")
            if service["spec"]["type"] == "NodePort"
        }
        at = {part: f"{host}:{ports[f'chaos-{part}']}" for part in DOORS}
        for address in at.values():
            _wait_open(address)
        urls = {part: f"http://{at[part]}" for part in (*SERVICES, "mail")}
        return Doors(urls, {service: self._dsn(service, at[f"{service}-database"]) for service in DATABASES})

    def _node_address(self) -> str:
        look = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return run("docker", "inspect", "--format", look, f"{self._kind}-control-plane").strip()

    def _dsn(self, service: str, at: str) -> str:
        name = f"{RELEASE}-{service}-database"
        secret = json.loads(self.kubectl("get", "secret", name, "-o", "json"))
        inside = urlsplit(base64.b64decode(secret["data"]["uri"]).decode())
        return inside._replace(netloc=f"{inside.username}:{inside.password}@{at}").geturl()

    # -- how it is

    def missing(self) -> list[str]:
        """What is not as it should be: not ready, or not of the latest template."""
        parts = self._cluster.get("deployments,statefulsets")
        return [part["metadata"]["name"] for part in parts if not _is_whole(part)]

    def wait_ready(self, timeout_s: float) -> None:
        """Until all is there, twice in a row: a pod that was just killed is still counted. Raises `NotReady`."""
        give_up_s = time.monotonic() + timeout_s
        whole, missing = 0, ["everything"]
        while whole < SETTLED_LOOKS:
            time.sleep(LOOK_S)
            try:
                missing = self.missing()
            except CommandFailed:
                missing = ["the API server"]
            whole = 0 if missing else whole + 1
            if time.monotonic() > give_up_s:
                raise NotReady(f"after {timeout_s:g} s these were not ready: {', '.join(missing)}")

    def restart(self, part: str) -> None:
        """Other pods in the place of a part's: what was done to them goes with them."""
        self.kubectl("delete", "pod", "-l", f"{self.release.selector},{PART}={part}", "--force", "--grace-period=0")


def _wait_open(address: str) -> None:
    """Until it leads somewhere: rules reach the nodes a moment after the objects are there."""
    host, _, port = address.partition(":")
    give_up_s = time.monotonic() + OPEN_TIMEOUT_S
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=2).close()
            return
        except OSError as error:
            if time.monotonic() > give_up_s:
                raise NotReady(f"nobody can be reached at {address}: {error}") from error
            time.sleep(0.5)


def _door(part: str, port: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": f"chaos-{part}"},
        "spec": {
            "type": "NodePort",
            "selector": {INSTANCE: RELEASE, PART: part},
            "ports": [{"port": 80, "targetPort": port}],
        },
    }


def _let_in(subnets: list[str]) -> dict[str, Any]:
    peers = [{"ipBlock": {"cidr": subnet}} for subnet in subnets]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "chaos"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"from": peers}]},
    }


def _is_whole(part: dict[str, Any]) -> bool:
    wanted, status = part["spec"]["replicas"], part["status"]
    counts = [status.get(name, 0) for name in ("replicas", "readyReplicas", "updatedReplicas")]
    return counts == [wanted] * 3 and status.get("observedGeneration", 0) >= part["metadata"]["generation"]
