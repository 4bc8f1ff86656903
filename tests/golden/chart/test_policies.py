"""What must hold for every pod and object, whatever the values."""

from __future__ import annotations

import re

import pytest

from tests.golden.chart.rendering import PART, SETS, Manifest, manifests, of_kind, pods

SERVICES = ("author", "conference", "directory", "gateway", "notifier")
_SECRETS = re.compile(r"://[^/\s]+:[^/\s]+@|password: (?!\$)\S|PRIVATE KEY", re.IGNORECASE)

every_set = pytest.mark.parametrize("values_set", SETS)


@every_set
def test_every_pod_fits_the_restricted_standard(values_set: str) -> None:
    for what, spec in pods(values_set):
        security = spec["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] > 0, what
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, what
        assert spec["automountServiceAccountToken"] is False, what
        assert spec["enableServiceLinks"] is False, what
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), what
        assert not any("hostPath" in volume for volume in spec.get("volumes", ())), what
        for container in _containers(spec):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, what


@every_set
def test_every_container_says_what_it_needs(values_set: str) -> None:
    for what, spec in pods(values_set):
        for container in _containers(spec):
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), what
            assert "memory" in container["resources"]["limits"], what


@every_set
def test_every_lasting_container_is_probed(values_set: str) -> None:
    for manifest in of_kind(values_set, "Deployment", "StatefulSet"):
        for container in manifest["spec"]["template"]["spec"]["containers"]:
            assert {"startupProbe", "livenessProbe", "readinessProbe"} <= container.keys(), manifest["metadata"]["name"]


@every_set
def test_a_service_is_alive_while_its_loop_turns_and_ready_by_its_own_account(values_set: str) -> None:
    for deployment in of_kind(values_set, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        probes = {kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
        assert {kind: (probe["path"], probe["port"]) for kind, probe in probes.items()} == {
            "startup": ("/startupz", "admin"),
            "liveness": ("/livez", "admin"),
            "readiness": ("/readyz", "admin"),
        }


@every_set
def test_a_pod_is_killed_only_after_all_that_it_is_promised(values_set: str) -> None:
    for deployment in of_kind(values_set, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        sleep_s = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
        settings = _settings(values_set, deployment["metadata"]["labels"][PART])
        deadline_s, grace_s = float(settings["TALLY_REQUEST_DEADLINE_S"]), float(settings["TALLY_SHUTDOWN_GRACE_S"])
        assert deadline_s < grace_s
        assert float(settings.get("TALLY_SETTLE_LAG_S", deadline_s)) >= deadline_s, "an epoch outlives its requests"
        assert sleep_s + grace_s < spec["terminationGracePeriodSeconds"]


@every_set
def test_who_owns_a_database_migrates_it_before_serving(values_set: str) -> None:
    migrating = {what for what, spec in pods(values_set) for one in _containers(spec) if one["name"] == "migrate"}
    kind, suffix = ("Job", "-migrate-1") if values_set == "external" else ("Deployment", "")
    assert migrating == {f"{kind} tally-{name}{suffix}" for name in SERVICES if name != "gateway"}


@every_set
def test_a_disruption_budget_is_there_if_and_only_if_there_are_several_pods(values_set: str) -> None:
    """One for a single pod would keep its node from ever being drained."""
    least = {m["metadata"]["name"]: m["spec"].get("replicas", 0) for m in of_kind(values_set, "Deployment")}
    for autoscaler in of_kind(values_set, "HorizontalPodAutoscaler"):
        assert least[autoscaler["metadata"]["name"]] == 0, "replicas and an autoscaler would fight"
        least[autoscaler["metadata"]["name"]] = autoscaler["spec"]["minReplicas"]
    budgets = {manifest["metadata"]["name"] for manifest in of_kind(values_set, "PodDisruptionBudget")}
    assert budgets == {name for name, pods in least.items() if pods > 1}


@every_set
def test_pods_are_spread_over_nodes_and_zones_where_nodes_have_no_zone_too(values_set: str) -> None:
    """One key that a node lacks makes the scheduler leave the node out of all that it spreads by."""
    for deployment in of_kind(values_set, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        selected = deployment["spec"]["selector"]["matchLabels"]
        (spread,) = spec["topologySpreadConstraints"]
        assert spread["topologyKey"] == "kubernetes.io/hostname"
        assert spread["labelSelector"]["matchLabels"] == selected
        assert spread["matchLabelKeys"] == ["pod-template-hash"], "those that an upgrade replaces don't count"
        (rather,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        if values_set != "everything":  # which has one of its own
            assert rather["podAffinityTerm"]["topologyKey"] == "topology.kubernetes.io/zone"
            assert rather["podAffinityTerm"]["labelSelector"]["matchLabels"] == selected


@every_set
def test_no_secret_is_in_a_config_map(values_set: str) -> None:
    for manifest in of_kind(values_set, "ConfigMap"):
        for key, text in manifest["data"].items():
            assert not _SECRETS.search(text), f"{manifest['metadata']['name']}: {key}"


@every_set
def test_no_credential_is_a_plain_variable(values_set: str) -> None:
    for what, spec in pods(values_set):
        for container in _containers(spec):
            for variable in container.get("env", ()):
                secret = variable["name"].endswith(("DATABASE_URL", "STREAM_URL", "PASSWORD"))
                assert not (secret and "value" in variable), f"{what}: {variable['name']}"


@every_set
def test_every_secret_and_account_that_a_pod_names_is_there_or_given_by_value(values_set: str) -> None:
    given = {
        "author-database", "conference-database", "directory-database", "notifier-database", "smtp", "nats",
        "more-settings", "nats-credentials", *(f"tally-{name}-database-app" for name in SERVICES),
    }  # fmt: skip
    there = {manifest["metadata"]["name"] for manifest in of_kind(values_set, "Secret")} | given
    accounts = {manifest["metadata"]["name"] for manifest in of_kind(values_set, "ServiceAccount")}
    for what, spec in pods(values_set):
        assert spec.get("serviceAccountName", "tally-test") in accounts, what
        for container in _containers(spec):
            for variable in container.get("env", ()):
                if "secretKeyRef" in variable.get("valueFrom", {}):
                    assert variable["valueFrom"]["secretKeyRef"]["name"] in there, what


@every_set
def test_every_service_selects_pods_that_are_there(values_set: str) -> None:
    labels = [m["spec"]["template"]["metadata"]["labels"] for m in of_kind(values_set, "Deployment", "StatefulSet")]
    for service in of_kind(values_set, "Service"):
        selected = service["spec"]["selector"].items()
        assert sum(selected <= one.items() for one in labels) == 1, service["metadata"]["name"]


@pytest.mark.parametrize("kind", ["Ingress", "HTTPRoute"])
def test_what_is_between_two_owners_goes_to_the_gateway_before_their_own_paths(kind: str) -> None:
    wanted = {
        "/author/1/attendance": "gateway",
        "/event/1/attendance": "gateway",
        "/event/1/attendance/2": "gateway",
        "/operation/1": "gateway",
        "/author": "author",
        "/author/1": "author",
        "/conference/1": "conference",
        "/event/1": "conference",
        "/directory/event": "directory",
    }
    rules = [rule for route in of_kind("everything", kind) for rule in _paths(route)]
    found = {path: next(to for pattern, to in rules if re.match(pattern, path)) for path in wanted}
    assert found == {path: f"tally-{service}" for path, service in wanted.items()}


def _paths(route: Manifest) -> list[tuple[str, str]]:
    if route["kind"] == "Ingress":
        found = route["spec"]["rules"][0]["http"]["paths"]
        return [(path["path"], path["backend"]["service"]["name"]) for path in found]
    return [
        (match["path"]["value"], rule["backendRefs"][0]["name"])
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    ]


def _containers(spec: Manifest) -> list[Manifest]:
    return [*spec.get("initContainers", ()), *spec["containers"]]


def _settings(values_set: str, part: str) -> dict[str, str]:
    return next(
        manifest["data"]
        for manifest in manifests(values_set)
        if manifest["kind"] == "ConfigMap" and manifest["metadata"]["name"] == f"tally-{part}"
    )
