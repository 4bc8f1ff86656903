"""What the chart makes of four sets of values: kept, so that a review sees how it changes, and valid for Kubernetes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml
from kubernetes_validate import utils as kubernetes

from tests.golden.chart.rendering import NAMESPACE, SETS, Manifest, manifests, parsed, rendered

Golden = Callable[[str, str], None]
VERSIONS = ("1.29", "1.30", "1.31", "1.32", "1.33", "1.34", "1.35")
# Not of Kubernetes itself; what they must hold is checked here by hand.
CUSTOM = {
    "Cluster": ("postgresql.cnpg.io/v1", {"instances", "storage", "bootstrap"}),
    "HTTPRoute": ("gateway.networking.k8s.io/v1", {"parentRefs", "rules"}),
    "ServiceMonitor": ("monitoring.coreos.com/v1", {"selector", "endpoints"}),
    "PodMonitor": ("monitoring.coreos.com/v1", {"selector", "podMetricsEndpoints"}),
    "PrometheusRule": ("monitoring.coreos.com/v1", {"groups"}),
}
# (The schemas of a version are read for every object otherwise.)
kubernetes.schema_contents = functools.cache(kubernetes.schema_contents)


@pytest.mark.parametrize("values_set", SETS)
def test_the_objects_change_only_on_purpose(values_set: str, golden: Golden) -> None:
    shown = [_without_chance(manifest) for manifest in manifests(values_set)]
    content = yaml.safe_dump_all(shown, sort_keys=False, width=200)
    golden(f"tests/golden/chart/rendered/{values_set}.yaml", content)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid_in_every_version_of_kubernetes(version: str) -> None:
    wrong = []
    for manifest in _different():
        if manifest["kind"] in CUSTOM:
            continue
        try:
            kubernetes.validate(manifest, version, strict=True)
        except kubernetes.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            wrong.append(f"{manifest['kind']} {manifest['metadata']['name']}: {path}: {error.message}")
    assert not wrong


def test_custom_objects_have_what_their_definitions_require() -> None:
    found = [manifest for manifest in _different() if manifest["kind"] in CUSTOM]
    assert {manifest["kind"] for manifest in found} == CUSTOM.keys()
    for manifest in found:
        version, required = CUSTOM[manifest["kind"]]
        assert manifest["apiVersion"] == version
        assert required <= manifest["spec"].keys(), manifest["metadata"]["name"]


@pytest.mark.parametrize("values_set", SETS)
def test_no_two_objects_are_the_same_one_and_all_are_in_the_namespace(values_set: str) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests(values_set)]
    assert len(names) == len(set(names))
    assert {manifest["metadata"]["namespace"] for manifest in manifests(values_set)} == {NAMESPACE}


def test_before_an_upgrade_migration_jobs_are_hooks_and_at_an_install_they_are_not() -> None:
    """A hook after the install would wait for pods that wait for it."""
    values = {"migrations": {"mode": "job"}}
    hooks = [[_hook(m) for m in parsed(rendered(values, is_upgrade=up)) if m["kind"] == "Job"] for up in (False, True)]
    assert set(hooks[0]) == {None}
    assert set(hooks[1]) == {"pre-upgrade"}


def _hook(manifest: Manifest) -> str | None:
    return manifest["metadata"].get("annotations", {}).get("helm.sh/hook")


def _different() -> Iterator[Manifest]:
    """Every object once, of those that the sets have in common."""
    seen = set()
    for values_set in SETS:
        for manifest in manifests(values_set):
            key = json.dumps(_without_chance(manifest), sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield manifest


def _without_chance(manifest: Manifest) -> Manifest:
    """Without what is drawn anew each time, and without whole dashboards, which are golden elsewhere."""
    changed: dict[str, Any] = {}
    if manifest["kind"] == "Secret":
        changed["stringData"] = dict.fromkeys(manifest["stringData"], "…")
    elif "dashboard" in manifest["metadata"]["name"]:
        changed["data"] = dict.fromkeys(manifest["data"], "…")
    return {**manifest, **changed}
