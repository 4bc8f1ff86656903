"""Values: each is described, each misspelt one is refused, and what is made from them is up to date."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from observability.dashboards import DASHBOARDS
from scripts import chart_docs
from tests.golden.chart.rendering import CHART, SETS, Refused, manifests, parsed, rendered

Golden = Callable[[str, str], None]
ROOT = CHART.parents[1]


def test_the_readme_and_the_schema_follow_from_the_values(golden: Golden) -> None:
    for name, content in chart_docs.generated().items():
        golden(f"charts/tally/{name}", content)


def test_a_value_that_says_nothing_of_itself_is_found() -> None:
    said = chart_docs.comments("# -- One.\none: 1\ntwo: 2\n")
    with pytest.raises(chart_docs.Undocumented, match="two has no description"):
        list(chart_docs.rows({"one": 1, "two": 2}, said))


@pytest.mark.parametrize(
    "values",
    [
        {"replicaCount": 2},
        {"image": {"tagg": "1"}},
        {"services": {"author": {"replica": 2}}},
        {"services": {"authr": {"replicas": 2}}},
        {"services": {"gateway": {"autoscaling": {"enable": True}}}},
        {"defaults": {"settings": {"LOG_LEVEL": "debug"}}},
        {"databases": {"mode": "bundeled"}},
        {"networkPolicy": {"apiServer": {"port": 443}}},
        {"monitoring": {"serviceMonitor": {"enabled": "yes"}}},
        {"requestDeadlineSeconds": 0},
        {"defaults": {"resources": {"limit": {"memory": "1Gi"}}}},
        {"services": {"author": {"affinity": {"podAntiAfinity": {}}}}},
        {"defaults": {"tolerations": [{"keys": "dedicated"}]}},
        {"networkPolicy": {"publicFrom": [{"namespaceSelectors": {}}]}},
        {"networkPolicy": {"apiServer": {"ports": []}}},
        {"nats": {"mode": "external", "url": "natsserver:4222"}},
        {"nats": {"mode": "external", "url": "nats://one:4222, nats://two:4222"}},
        {"nats": {"bundled": {"size": "2 GB"}}},
        {"databases": {"bundled": {"size": "1gb"}}},
        {"defaults": {"podDisruptionBudget": {"maxUnavailable": "half"}}},
        {"services": {"Ledger": {"port": 8040}}},
        {"services": {"ledger-two": {"port": 8040}}},
        {"tokens": {"operators": ["-"]}},
    ],
    ids=str,
)
def test_a_misspelt_or_wrong_value_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        rendered(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"databases": {"mode": "external"}}, "databaseSecret is needed"),
        ({"mail": {"mode": "external"}}, "mail.host is needed"),
        ({"httpRoute": {"enabled": True}}, "httpRoute.parentRefs is needed"),
        ({"services": {"author": {"calls": ["ledger"]}}}, "author calls ledger, which is not among the services"),
        ({"nats": {"mode": "external"}}, "nats.url or nats.existingSecret is needed"),
    ],
)
def test_values_that_lack_something_end_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        rendered(values)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"mail": {"existingSecret": "smtp"}}, "mail.existingSecret: the bundled inbox takes no password"),
        ({"nats": {"streamReplicas": 3}}, "nats.streamReplicas: the bundled server is one"),
        ({"nats": {"streamMaxBytes": 2147483648}}, "nats.bundled.size: a stream of 2147483648 bytes"),
        ({"nats": {"bundled": {"size": "1.5Gi"}}}, "do not fit in 1.5Gi"),
        ({"services": {"mail": {"port": 8040}}}, "services.mail: jwks, mail, nats, test are names of other parts"),
        ({"services": {"test": {"port": 8040}}}, "services.test: "),
        ({"tokens": {"operators": ["gateway"]}}, "tokens.operators: gateway has an account already"),
        ({"tokens": {"operators": ["test"]}}, "tokens.operators: test has an account already"),
        (
            {"services": {"gateway": {"autoscaling": {"enabled": True, "minReplicas": 9}}}},
            r"services.gateway.autoscaling: minReplicas \(9\) is more than maxReplicas \(6\)",
        ),
        (
            {"monitoring": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}},
            "would read every pod twice",
        ),
    ],
    ids=str,
)
def test_values_that_cannot_hold_together_end_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Refused, match=sentence):
        rendered(values)


@pytest.mark.parametrize("size", ["1744830464", "1.7G", "2Gi", "1800M", "1Ti"])
def test_a_size_in_which_the_stream_fits_is_taken(size: str) -> None:
    most = 1_500_000_000 if size == "1.7G" else 1_610_612_736
    assert rendered({"nats": {"bundled": {"size": size}, "streamMaxBytes": most}}) is not None


def test_the_chart_may_be_a_part_of_another_which_gives_it_global_values() -> None:
    assert rendered({"global": {"imageRegistry": "registry.example.com"}}) is not None


def test_a_new_service_is_one_block_of_values() -> None:
    templates = rendered({"services": {"ledger": {"port": 8040, "calls": ["author"]}}})
    for kind in ("deployment", "service", "serviceaccount", "configmap", "networkpolicy"):
        assert "name: tally-ledger\n" in templates[f"tally/templates/{kind}.yaml"], kind


@pytest.mark.parametrize(("folder", "pattern"), [("dashboards", "*.json"), ("alerts", "*.yaml")])
def test_the_chart_carries_the_dashboards_and_alerts_as_they_are(folder: str, pattern: str, golden: Golden) -> None:
    """A chart can hold no links to what is outside of it, so it holds copies."""
    originals = {file.name: file.read_text() for file in (ROOT / "observability" / folder).glob(pattern)}
    for name, content in originals.items():
        golden(f"charts/tally/files/{folder}/{name}", content)
    assert {file.name for file in (CHART / "files" / folder).iterdir()} == originals.keys()
    kinds = {"dashboards": "grafana_dashboard", "alerts": "PrometheusRule"}
    made = [m for m in manifests("everything") if kinds[folder] in (m["kind"], *m["metadata"].get("labels", {}))]
    assert len(made) == len(originals) > 0


def test_alerts_and_dashboards_lead_to_where_the_documents_are() -> None:
    on = {"enabled": True}
    monitoring = {"docs": "https://docs.example/tally/", "prometheusRule": on, "dashboards": on}
    made = list(parsed(rendered({"monitoring": monitoring})))
    rules = "".join(str(one) for one in made if one["kind"] == "PrometheusRule")
    assert "https://docs.example/tally/runbooks/TallyBreakerOpen.md" in rules and "'docs/runbooks/" not in rules
    files = [item for one in made if one["kind"] == "ConfigMap" for item in one["data"].items()]
    boards = [json.loads(text) for name, text in files if name.endswith(".json")]
    told = [one["query"] for board in boards for one in board["templating"]["list"] if one["name"] == "docs"]
    assert told == ["https://docs.example/tally"] * len(DASHBOARDS)


def test_every_set_of_values_is_one_that_chart_testing_finds() -> None:
    assert {file.name for file in (CHART / "ci").iterdir()} == {f"{name}-values.yaml" for name in SETS}
