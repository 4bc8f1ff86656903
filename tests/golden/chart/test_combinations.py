"""Values that change what others mean: what the chart makes of them together, each by the case that went wrong."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from tally.chassis.settings import load
from tests.golden.chart.rendering import PART, Manifest, parsed, rendered
from tests.golden.chart.test_network import settings_of

Values = dict[str, Any]


def made(values: Values, kind: str, *, is_upgrade: bool = False) -> dict[str, Manifest]:
    """The objects of a kind by their names, without the release's."""
    return {
        manifest["metadata"]["name"].removeprefix("tally-"): manifest
        for manifest in parsed(rendered(values, is_upgrade=is_upgrade))
        if manifest["kind"] == kind
    }


def rules(policy: Manifest, direction: str) -> list[Manifest]:
    found: list[Manifest] = policy["spec"].get(direction, [])
    return found


# --- who reaches whom ------------------------------------------------------------------------------------------------


def test_no_address_is_no_way_there_where_a_rule_without_peers_would_lead_everywhere() -> None:
    policy = {"apiServer": {"cidrs": []}, "external": {"cidrs": []}, "dnsTo": [], "publicFrom": [], "metricsFrom": []}
    outside = {
        "databases": {"mode": "external"},
        "defaults": {"databaseSecret": "database"},
        "nats": {"mode": "external", "url": "nats://nats:4222"},
        "mail": {"mode": "external", "host": "smtp.example.com"},
        "tracing": {"endpoint": "http://collector:4318"},
        "migrations": {"mode": "job"},
        "networkPolicy": policy,
    }
    for values in ({"networkPolicy": policy}, outside):
        for name, found in made(values, "NetworkPolicy").items():
            for rule in rules(found, "egress"):
                assert rule["to"] and rule["ports"], name
            for rule in rules(found, "ingress"):
                assert rule["from"] and rule["ports"], name
    assert rules(made(outside, "NetworkPolicy")["directory"], "egress") == []


def test_a_service_with_a_database_of_its_own_is_not_cut_off_from_it_where_the_others_have_clusters() -> None:
    values = {
        "databases": {"mode": "cloudnative-pg"},
        "services": {"author": {"databaseSecret": "elsewhere"}},
        "networkPolicy": {"external": {"cidrs": ["10.9.0.0/16"], "databasePorts": [6432]}},
    }
    assert "author-database" not in made(values, "Cluster")
    policies = made(values, "NetworkPolicy")
    out = {"to": [{"ipBlock": {"cidr": "10.9.0.0/16"}}], "ports": [{"protocol": "TCP", "port": 6432}]}
    assert out in rules(policies["author"], "egress")
    assert out not in rules(policies["conference"], "egress")


# --- databases -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["recovery", "pg_basebackup"])
def test_a_cluster_that_begins_as_a_copy_has_one_way_to_begin_and_still_the_service_s_database(method: str) -> None:
    """Two ways are refused by the operator; without the database's name the Secret would lead to another one."""
    values = {
        "databases": {"mode": "cloudnative-pg", "cloudnativePG": {"spec": {"storage": {"resizeInUseVolumes": True}}}},
        "services": {"author": {"databaseSpec": {"bootstrap": {method: {"source": "before"}}, "instances": 1}}},
    }
    clusters = made(values, "Cluster")
    author, conference = clusters["author-database"]["spec"], clusters["conference-database"]["spec"]
    assert author["bootstrap"] == {method: {"database": "author", "owner": "tally", "source": "before"}}
    assert conference["bootstrap"] == {"initdb": {"database": "conference", "owner": "tally"}}
    assert (author["instances"], conference["instances"]) == (1, 3)
    assert author["storage"] == {"size": "10Gi", "resizeInUseVolumes": True}


# --- helm test -------------------------------------------------------------------------------------------------------


def test_a_test_takes_a_service_away_only_where_it_may_and_only_then_has_it_an_operator_s_rights() -> None:
    quiet, loud = made({}, "Pod"), made({"tests": {"disruptive": True}}, "Pod")
    assert (quiet.keys(), loud.keys()) == ({"test-walkthrough"}, {"test-walkthrough", "test-service-down"})
    tokens = {name: [v for v in pod["spec"]["volumes"] if "projected" in v] for name, pod in loud.items()}
    assert {name for name, found in tokens.items() if found} == {"test-service-down"}
    for values, may in (({}, False), ({"tests": {"disruptive": True}}, True)):
        policies, settings = made(values, "NetworkPolicy"), made(values, "ConfigMap")
        assert ("tally-test" in settings["gateway"]["data"]["TALLY_TOKEN_OPERATORS"]) is may
        assert ("service_down.py" in settings["test"]["data"]) is may
        entered = ports(rule for rule in rules(policies["gateway"], "ingress") if is_test(rule))
        left = ports(rules(policies["test"], "egress"))
        assert ((9443 in entered), (9443 in left), (8443 in entered)) == (may, may, True)


def ports(found: Iterable[Manifest]) -> set[int]:
    return {port["port"] for rule in found for port in rule["ports"]}


def is_test(rule: Manifest) -> bool:
    return any(peer.get("podSelector", {}).get("matchLabels", {}).get(PART) == "test" for peer in rule["from"])


def test_without_tests_there_is_nothing_of_them() -> None:
    values = {"tests": {"enabled": False, "disruptive": True}, "tokens": {"operators": []}}
    assert made(values, "Pod") == {}
    for kind in ("ConfigMap", "ServiceAccount", "NetworkPolicy"):
        assert "test" not in made(values, kind)
    assert not any(is_test(rule) for one in made(values, "NetworkPolicy").values() for rule in rules(one, "ingress"))
    # (An empty variable would count as not set, and its default is an account called operator.)
    assert made(values, "ConfigMap")["gateway"]["data"]["TALLY_TOKEN_OPERATORS"] == "nobody"


# --- deadlines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deadline_s", [1.5, 2, 10, 60])
def test_who_waits_for_one_s_own_write_may_wait_until_it_is_settled(deadline_s: float) -> None:
    settings = made({"requestDeadlineSeconds": deadline_s}, "ConfigMap")
    told = {name: {key: value for key, value in one["data"].items()} for name, one in settings.items()}
    lag_s = float(told["conference"]["TALLY_SETTLE_LAG_S"])
    assert lag_s == float(told["gateway"]["TALLY_REQUEST_DEADLINE_S"]) == deadline_s
    assert float(told["directory"]["TALLY_REQUEST_DEADLINE_S"]) == min(lag_s + 4, 60)


def test_a_deadline_that_settings_give_counts_for_all_that_follows_from_it() -> None:
    """Epochs that are closed before the gateway gives up would void what it has recorded and not confirmed."""
    values = {
        "services": {
            "gateway": {"settings": {"TALLY_REQUEST_DEADLINE_S": 7.5}},
            "directory": {"settings": {"TALLY_SHUTDOWN_GRACE_S": "30"}},
        }
    }
    settings, deployments = made(values, "ConfigMap"), made(values, "Deployment")
    assert settings["gateway"]["data"]["TALLY_SHUTDOWN_GRACE_S"] == "11"
    assert {settings[name]["data"]["TALLY_SETTLE_LAG_S"] for name in ("author", "conference")} == {"7.5"}
    graces = {n: d["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] for n, d in deployments.items()}
    assert (graces["gateway"], graces["directory"], graces["notifier"]) == (10 + 11 + 5, 10 + 30 + 5, 10 + 5 + 5)


# --- settings --------------------------------------------------------------------------------------------------------


def test_a_setting_comes_to_the_service_as_it_was_written() -> None:
    """YAML takes an unquoted `on` for true; and Helm tells a large number by its exponent."""
    given = {
        "TALLY_HEDGED_READS": True,
        "TALLY_TOKEN_CHECK": False,
        "TALLY_STREAM_MAX_BYTES": 10737418240,
        "TALLY_DEFERRED_MAX_AGE_S": 0.5,
        "TALLY_LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_INSECURE": True,
    }
    data = made({"services": {"gateway": {"settings": given}}}, "ConfigMap")["gateway"]["data"]
    assert {name: data[name] for name in given} == {
        "TALLY_HEDGED_READS": "on",
        "TALLY_TOKEN_CHECK": "off",
        "TALLY_STREAM_MAX_BYTES": "10737418240",
        "TALLY_DEFERRED_MAX_AGE_S": "0.5",
        "TALLY_LOG_LEVEL": "debug",
        "OTEL_EXPORTER_OTLP_INSECURE": "true",
    }


def test_a_broker_that_is_told_something_else_is_started_anew_to_read_it() -> None:
    told = [made({"nats": {"streamMaxBytes": most}}, "StatefulSet")["nats"] for most in (1 << 30, 1 << 29, 1 << 29)]
    sums = [one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"] for one in told]
    assert sums[0] != sums[1] == sums[2]


# --- what is not there -----------------------------------------------------------------------------------------------


def test_a_service_that_is_not_enabled_is_called_by_nobody_and_what_only_it_used_is_not_there() -> None:
    values = {"services": {"notifier": {"enabled": False}}}
    assert made({}, "StatefulSet").keys() - made(values, "StatefulSet").keys() == {"mail", "notifier-database"}
    assert "mail" not in made(values, "Service")
    assert "TALLY_NOTIFIER_URL" not in made(values, "ConfigMap")["gateway"]["data"]
    for kind in ("NetworkPolicy", "Deployment", "Pod"):
        assert not [name for name, one in made(values, kind).items() if "notifier" in str(one)], kind


def test_without_events_there_is_no_broker() -> None:
    values = {"services": {name: {"stream": False} for name in made({}, "Deployment")}}
    for kind in ("StatefulSet", "Service", "Secret", "NetworkPolicy"):
        assert "nats" in made({}, kind)
        assert "nats" not in made(values, kind)


# --- pods ------------------------------------------------------------------------------------------------------------


def test_a_pod_that_need_not_wait_to_be_left_alone_does_not_sleep_no_seconds() -> None:
    """A sleep of 0 s is refused before Kubernetes 1.33."""
    for deployment in made({"preStopSeconds": 0}, "Deployment").values():
        spec = deployment["spec"]["template"]["spec"]
        assert "lifecycle" not in spec["containers"][0]
        assert spec["terminationGracePeriodSeconds"] > 5


def test_a_migration_s_job_is_where_the_service_s_pods_may_be() -> None:
    placed = {
        "nodeSelector": {"pool": "tally"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
    }
    values = {"migrations": {"mode": "job"}, "defaults": {**placed, "podAnnotations": {"example.com/note": "here"}}}
    service = made(values, "Deployment")["author"]["spec"]["template"]["spec"]
    for name, job in made(values, "Job").items():
        template = job["spec"]["template"]
        assert {key: template["spec"].get(key) for key in placed} == placed, name
        assert template["spec"]["dnsConfig"] == service["dnsConfig"]
        assert template["metadata"]["annotations"] == {"example.com/note": "here"}


@pytest.mark.parametrize("jwks", ["", '{"keys": []}'])
def test_a_migration_before_an_upgrade_needs_no_config_map_that_the_upgrade_may_bring_or_change(jwks: str) -> None:
    """Helm makes objects after the hooks: an old one names files that are not mounted now, a new one is not there."""
    values = {"migrations": {"mode": "job"}, "tokens": {"jwks": jwks}, "nats": {"credentialsSecret": "nats-creds"}}
    jobs = made(values, "Job", is_upgrade=True)
    assert len(jobs) == 4
    for name, job in jobs.items():
        spec = job["spec"]["template"]["spec"]
        assert "configMap" not in str(spec), name
        given = {one["name"]: one.get("value") for one in spec["containers"][0]["env"]}
        mounted = tuple(mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"])
        files = {key: value for key, value in given.items() if key.endswith("_FILE")}
        assert all(value.startswith(mounted) for value in files.values()), files
        settings = settings_of(name.removesuffix("-migrate-1"))
        assert load(settings, {key: value or "postgresql://there" for key, value in given.items()})


# --- TLS and volumes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ca", ["ca.crt", ""])
def test_with_a_certificate_all_that_talk_to_a_service_speak_tls(ca: str) -> None:
    on = {"enabled": True}
    values = {"tls": {"secret": "services-tls", "ca": ca}, "monitoring": {"serviceMonitor": on}, "faults": True}
    settings = made(values, "ConfigMap")
    for name, deployment in made(values, "Deployment").items():
        data, spec = settings[name]["data"], deployment["spec"]["template"]["spec"]
        (container,) = spec["containers"]
        probes = [container[f"{kind}Probe"]["httpGet"]["scheme"] for kind in ("startup", "liveness", "readiness")]
        assert probes == ["HTTPS"] * 3
        (volume,) = (volume for volume in spec["volumes"] if volume["name"] == "tls")
        assert volume["secret"]["secretName"] == "services-tls"
        for one in (container, *spec.get("initContainers", ())):
            (folder,) = (mount["mountPath"] for mount in one["volumeMounts"] if mount["name"] == "tls")
            assert data["TALLY_TLS_CERT_FILE"] == f"{folder}/tls.crt"
            assert data["TALLY_TLS_KEY_FILE"] == f"{folder}/tls.key"
            assert data.get("TALLY_TLS_CA_FILE") == (f"{folder}/ca.crt" if ca else None)
        called = [value for key, value in data.items() if key.endswith("_URL")]
        assert all(value.startswith("https://") for value in called), called
    (endpoint,) = made(values, "ServiceMonitor")["tally"]["spec"]["endpoints"]
    assert (endpoint["scheme"], endpoint["tlsConfig"]) == ("https", {"insecureSkipVerify": True})
    (test,) = made(values, "Pod").values()
    assert {"name": "SCHEME", "value": "https"} in test["spec"]["containers"][0]["env"]


@pytest.mark.parametrize("mode", ["init", "job"])
def test_a_service_has_volumes_of_its_own_and_so_has_its_migration(mode: str) -> None:
    volume = {"name": "authorities", "configMap": {"name": "authorities"}}
    mount = {"name": "authorities", "mountPath": "/etc/authorities", "readOnly": True}
    author = {"extraVolumes": [volume], "extraVolumeMounts": [mount]}
    values = {"migrations": {"mode": mode}, "services": {"author": author}}
    found = {**made(values, "Deployment"), **made(values, "Job")}
    for name, one in found.items():
        spec, has = one["spec"]["template"]["spec"], name.startswith("author")
        assert (volume in spec["volumes"]) is has, name
        for container in (*spec["containers"], *spec.get("initContainers", ())):
            assert (mount in container["volumeMounts"]) is has, name


def test_a_way_out_that_the_chart_does_not_know_is_open_to_services_and_migrations() -> None:
    rule = {"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"protocol": "TCP", "port": 8443}]}
    policies = made({"migrations": {"mode": "job"}, "networkPolicy": {"extraEgress": [rule]}}, "NetworkPolicy")
    open_ = {name for name, policy in policies.items() if rule in rules(policy, "egress")}
    services = {"author", "conference", "directory", "gateway", "notifier"}
    assert open_ == services | {f"{name}-migrate" for name in services - {"gateway"}}


# --- what is said after an install -----------------------------------------------------------------------------------


def notes(values: Values) -> str:
    templates = rendered(values)
    if "tally/templates/NOTES.txt" not in templates:
        pytest.skip("the program `helm template` does not show the notes; helm-python-sdk does")
    return templates["tally/templates/NOTES.txt"]


def test_the_notes_say_what_nobody_can_guess() -> None:
    said = notes({})
    assert "kubectl get --raw /.well-known/openid-configuration" in said
    assert "helm test tally" in said and "for everybody" not in said
    assert "for everybody" in notes({"tests": {"disruptive": True}})
    assert "helm test" not in notes({"tests": {"enabled": False}})


def test_the_notes_tell_whose_gateway_is_not_let_in() -> None:
    route = {"enabled": True, "parentRefs": [{"name": "public", "namespace": "gateways"}]}
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    hint = "kubernetes.io/metadata.name: gateways"
    assert hint in notes({"httpRoute": route})
    for policy in ({"publicFrom": [peer]}, {"enabled": False}):
        assert hint not in notes({"httpRoute": route, "networkPolicy": policy})
