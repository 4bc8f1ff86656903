"""A namespace of a Kubernetes cluster, as the tests use it: kubectl, helm, and ports of services.

Settings, all of them variables:

    KUBECONFIG          the cluster; without it one is made by k8s/cluster, whose variables are honoured
    IMAGE, NEXT_IMAGE   the services' image, and one with one more migration. On a cluster that is not kind's they must
                        be where it can pull them; else both are built and loaded.
    CLUSTER             the name of the kind cluster
    E2E_PREPARED        1: the kind cluster is there and has both images, so that nothing is built
    POSTGRES_IMAGE, NATS_IMAGE
    E2E_NAMESPACE       where the release is installed; it is emptied at the end
    HELM_ARGS           more for `helm`
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RELEASE = "tally"
_FORWARDING = re.compile(r"Forwarding from 127\.0\.0\.1:(\d+)")


class CommandFailed(Exception):
    """What was run, and what it said."""


def run(*command: str, stdin: str | None = None, timeout_s: float = 600) -> str:
    """The output of a command. Raises `CommandFailed`."""
    if shutil.which(command[0]) is None:
        raise CommandFailed(f"The end-to-end tests need the program {command[0]}, which is not here.")
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=ROOT
    )
    if done.returncode != 0:
        raise CommandFailed(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout[-4000:]}{done.stderr}")
    return done.stdout


class Cluster:
    """A release's namespace."""

    def __init__(self, namespace: str, image: str, next_image: str) -> None:
        self.namespace = namespace
        self.image = image
        self.next_image = next_image

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout_s: float = 600) -> str:
        return run("kubectl", "--namespace", self.namespace, *arguments, stdin=stdin, timeout_s=timeout_s)

    def helm(self, command: str, *arguments: str) -> str:
        return run("helm", command, RELEASE, "--namespace", self.namespace, *arguments, timeout_s=900)

    def install(self, image: str) -> None:
        """`helm upgrade --install`, until everything is ready."""
        repository, _, tag = image.rpartition(":")
        values = {
            "image.repository": repository,
            "image.tag": tag,
            "databases.bundled.image": os.environ.get("POSTGRES_IMAGE"),
            "nats.bundled.image": os.environ.get("NATS_IMAGE"),
        }
        given = [f"--set={name}={value}" for name, value in values.items() if value]
        more = shlex.split(os.environ.get("HELM_ARGS", ""))
        chart = [str(ROOT / "charts" / "tally"), "--values", str(Path(__file__).with_name("values.yaml"))]
        self.helm("upgrade", *chart, "--install", "--wait", "--timeout", "10m", *given, *more)

    def get(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = json.loads(self.kubectl("get", kind, *arguments, "-o", "json"))["items"]
        return items

    def left(self) -> set[str]:
        """The objects that are in the namespace, but for those that every namespace has, and for events."""
        kinds = run("kubectl", "api-resources", "--verbs=list", "--namespaced", "-o", "name").split()
        kinds = [kind for kind in kinds if not kind.startswith(("events", "pods.metrics"))]
        names = set(self.kubectl("get", ",".join(kinds), "-o", "name", "--ignore-not-found").split())
        return names - {"configmap/kube-root-ca.crt", "serviceaccount/default"}

    @contextmanager
    def forwarded(self, service: str, port: int) -> Iterator[int]:
        """A port of this machine that leads to a pod of the service."""
        command = ["kubectl", "--namespace", self.namespace, "port-forward", f"service/{RELEASE}-{service}", f":{port}"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                match = _FORWARDING.match(line)
                if match is None:
                    raise CommandFailed(f"{shlex.join(command)} said: {line}")
                yield int(match[1])
            finally:
                process.terminate()


def connect() -> Cluster:
    """The cluster of KUBECONFIG, or a kind cluster, which is made if it is not there, with both images."""
    image = os.environ.get("IMAGE") or "tally:0.1.0"
    repository, _, tag = image.rpartition(":")
    next_image = os.environ.get("NEXT_IMAGE") or f"{repository}:{tag}-next"
    cluster = Cluster(os.environ.get("E2E_NAMESPACE") or "tally-e2e", image, next_image)
    if not _is_elsewhere() and os.environ.get("E2E_PREPARED") != "1":
        run(str(ROOT / "k8s" / "cluster"), timeout_s=1200)
        _build_next(image, next_image)
        run("kind", "load", "docker-image", "--name", os.environ.get("CLUSTER") or "tally", next_image)
    return cluster


def _is_elsewhere() -> bool:
    """Whether KUBECONFIG leads to a cluster that is not kind's."""
    if not Path(os.environ.get("KUBECONFIG") or "/nowhere").exists():
        return False
    return not run("kubectl", "config", "current-context").startswith("kind-")


def _build_next(image: str, next_image: str) -> None:
    """The image with one more migration: what the next version of the author service would bring.

    It takes its time, and the table's lock at its end only: whoever waits for that fails, however the pods are changed.
    """
    migrations = ROOT / "services" / "author" / "migrations"
    number = max(int(file.name[:4]) for file in migrations.glob("*.sql")) + 1
    sql = f"{number:04d}_nickname.sql"
    dockerfile = f"""\
FROM {image}
USER 0
RUN printf 'SELECT pg_sleep(2); ALTER TABLE author ADD COLUMN nickname text;' \\
    > /opt/tally/src/services/author/migrations/{sql} && chmod 644 /opt/tally/src/services/author/migrations/{sql}
USER 65532:65532
"""
    run("docker", "build", "--tag", next_image, "-", stdin=dockerfile)
