"""What the chart asks a cluster before an upgrade: a stand-in for the API server answers, and `helm` renders for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.golden.chart.rendering import CHART, NAMESPACE, RELEASE, Manifest

VERSION = {"major": "1", "minor": "34", "gitVersion": "v1.34.0"}
KINDS = {"ConfigMap": "configmaps", "Secret": "secrets", "ServiceAccount": "serviceaccounts"}
RESOURCES = [
    {"name": name, "singularName": "", "namespaced": True, "kind": kind, "verbs": ["get", "list"]}
    for kind, name in KINDS.items()
]
ACCOUNTS = {f"ServiceAccount/tally-{name}" for name in ("author", "conference", "directory", "notifier")}
SECRETS = {f"Secret/tally-{name}-database" for name in ("author", "conference", "directory", "notifier")}
ROOT_CA = {"ConfigMap/kube-root-ca.crt"}


@contextmanager
def a_cluster(there: set[str]) -> Iterator[str]:
    """The address of an API server that has these objects (kind/name) in the namespace, and nothing else."""
    prefix = f"/api/v1/namespaces/{NAMESPACE}"
    objects = {}
    for one in there:
        kind, name = one.split("/")
        metadata = {"name": name, "namespace": NAMESPACE}
        objects[f"{prefix}/{KINDS[kind]}/{name}"] = {"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": {}}
    answers: dict[str, Any] = {
        "/version": VERSION,
        "/api": {"kind": "APIVersions", "versions": ["v1"]},
        "/apis": {"kind": "APIGroupList", "apiVersion": "v1", "groups": []},
        "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": RESOURCES},
        **objects,
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            found = answers.get(self.path.split("?")[0])
            content = json.dumps(missing if found is None else found).encode()
            self.send_response(404 if found is None else 200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def hooks(there: set[str], folder: Path) -> dict[str, bool]:
    """Which services' migrations run before the upgrade."""
    helm = shutil.which("helm")
    if helm is None:
        pytest.skip("needs the program helm: helm-python-sdk asks no cluster")
    (folder / "values.yaml").write_text("migrations: {mode: job}\n")
    (folder / "kubeconfig").write_text("")
    with a_cluster(there) as address:
        command = [helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--is-upgrade"]
        more = ["--dry-run=server", "--kube-apiserver", address, "--values", str(folder / "values.yaml")]
        done = subprocess.run(
            [*command, *more],
            env={"KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    jobs: list[Manifest] = [one for one in yaml.safe_load_all(done.stdout) if one and one["kind"] == "Job"]
    return {job["metadata"]["name"].split("-")[1]: "helm.sh/hook" in job["metadata"]["annotations"] for job in jobs}


def test_a_migration_runs_before_an_upgrade_where_all_that_it_needs_is_there(tmp_path: Path) -> None:
    assert set(hooks(ROOT_CA | ACCOUNTS | SECRETS, tmp_path).values()) == {True}


@pytest.mark.parametrize("missing", ["ServiceAccount/tally-notifier", "Secret/tally-notifier-database"])
def test_the_migration_of_a_service_that_an_upgrade_brings_runs_beside_its_pods(missing: str, tmp_path: Path) -> None:
    """Before the upgrade it would wait for an account or a Secret that is made after it, for good."""
    found = hooks((ROOT_CA | ACCOUNTS | SECRETS) - {missing}, tmp_path)
    assert found == {"author": True, "conference": True, "directory": True, "notifier": False}
