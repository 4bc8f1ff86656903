"""The chart, rendered without a cluster: by helm-python-sdk (Linux x86_64 and macOS), or else by `helm` on the PATH."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).resolve().parents[3] / "charts" / "tally"
RELEASE = "tally"
NAMESPACE = "conferences"
#: The sets of values that are rendered, as files of charts/tally/ci.
SETS = ("defaults", "ha", "external", "everything")
PART = "app.kubernetes.io/component"

Manifest = dict[str, Any]


class Refused(Exception):
    """Helm does not take these values; the message says why."""


@functools.cache
def manifests(values_set: str) -> tuple[Manifest, ...]:
    """The objects of one of `SETS`, in the order of their templates' names."""
    return tuple(parsed(rendered(yaml.safe_load((CHART / "ci" / f"{values_set}-values.yaml").read_text()))))


def parsed(templates: Mapping[str, str]) -> Iterator[Manifest]:
    for name in sorted(templates):
        if name.endswith(".yaml"):
            yield from filter(None, yaml.safe_load_all(templates[name]))


def of_kind(values_set: str, *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests(values_set) if manifest["kind"] in kinds]


def rendered(values: Mapping[str, Any], *, is_upgrade: bool = False) -> dict[str, str]:
    """The text of each template that has one. Raises `Refused`."""
    try:
        import helm_python
    except ImportError:
        return _by_program(values, is_upgrade)
    try:
        with helm_python.Chart.load(CHART) as chart:
            return chart.render(
                dict(values), name=RELEASE, namespace=NAMESPACE, is_install=not is_upgrade, is_upgrade=is_upgrade
            )
    except helm_python.HelmError as error:
        raise Refused(str(error)) from error


def _by_program(values: Mapping[str, Any], is_upgrade: bool) -> dict[str, str]:
    helm = shutil.which("helm")
    if helm is None:
        pytest.fail("The chart cannot be rendered: neither the package helm-python-sdk nor the program helm is here.")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps(values))
        command = [helm, "template", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", str(file)]
        done = subprocess.run(
            [*command, *(["--is-upgrade"] if is_upgrade else [])], capture_output=True, text=True, check=False
        )
    if done.returncode != 0:
        raise Refused(done.stderr)
    templates: dict[str, str] = {}
    for document in done.stdout.split("\n---\n"):
        if document.strip():
            name = document.split("# Source: ", 1)[1].split("\n", 1)[0]
            templates[name] = templates.get(name, "") + "\n---\n" + document
    return templates


def pods(values_set: str) -> list[tuple[str, Manifest]]:
    """(what it is of, its spec) for every pod that the objects make."""
    made = of_kind(values_set, "Deployment", "StatefulSet", "Job")
    return [
        *((f"{m['kind']} {m['metadata']['name']}", m["spec"]["template"]["spec"]) for m in made),
        *((f"Pod {m['metadata']['name']}", m["spec"]) for m in of_kind(values_set, "Pod")),
    ]
