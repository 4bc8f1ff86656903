"""Network policies hold exactly the edges of the architecture: the services' own settings say whom they call."""

from __future__ import annotations

import importlib
import re

import msgspec
import pytest

from tally.chassis.settings import ServiceSettings
from tests.golden.chart.rendering import PART, SETS, of_kind

SERVICES = ("author", "conference", "directory", "gateway", "notifier")


def settings_of(service: str) -> type[ServiceSettings]:
    """The settings that the service's command line reads: the one class of its own that its `__main__` knows."""
    module = importlib.import_module(f"services.{service}.__main__")
    (found,) = (
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, ServiceSettings)
        and kind.__module__.startswith(f"services.{service}.")
    )
    return found


def calls(service: str) -> set[str]:
    """Whom it calls, by its settings: a field `author_url` is the address of the author service."""
    names = {field.name.removesuffix("_url") for field in msgspec.structs.fields(settings_of(service))}
    return names & set(SERVICES)


def has(service: str, field: str) -> bool:
    return field in {one.name for one in msgspec.structs.fields(settings_of(service))}


def edges_of_the_code() -> set[tuple[str, str, int]]:
    fields = {name: msgspec.structs.fields(settings_of(name)) for name in SERVICES}
    port = {name: next(one.default for one in own if one.name == "port") for name, own in fields.items()}
    edges = {(caller, called, port[called]) for caller in SERVICES for called in calls(caller)}
    edges |= {(name, f"{name}-database", 5432) for name in SERVICES if has(name, "database_url")}
    edges |= {(name, "nats", 4222) for name in SERVICES if has(name, "stream_url")}
    edges |= {(name, "mail", 8025) for name in SERVICES if has(name, "smtp_host")}
    return edges


def edges(values_set: str, direction: str) -> set[tuple[str, str, int]]:
    """(from, to, port) between parts of the release."""
    found = set()
    for policy in of_kind(values_set, "NetworkPolicy"):
        here = policy["spec"]["podSelector"]["matchLabels"][PART]
        for rule in policy["spec"].get(direction, ()):
            for peer in rule["to" if direction == "egress" else "from"]:
                there = peer.get("podSelector", {}).get("matchLabels", {}).get(PART)
                if there is not None:
                    ends = (here, there) if direction == "egress" else (there, here)
                    found |= {(*ends, port["port"]) for port in rule["ports"]}
    return found


def without_tests(found: set[tuple[str, str, int]]) -> set[tuple[str, str, int]]:
    return {edge for edge in found if edge[0] != "test" and not edge[0].endswith("-migrate")}


@pytest.mark.parametrize("values_set", ["defaults", "everything"])
@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_the_edges_of_the_policies_are_those_of_the_code(values_set: str, direction: str) -> None:
    assert without_tests(edges(values_set, direction)) == edges_of_the_code()


@pytest.mark.parametrize("values_set", SETS)
def test_each_edge_may_be_left_and_entered(values_set: str) -> None:
    selected = {policy["spec"]["podSelector"]["matchLabels"][PART] for policy in of_kind(values_set, "NetworkPolicy")}
    out = {edge for edge in edges(values_set, "egress") if edge[1] in selected}
    assert {edge for edge in edges(values_set, "ingress") if not edge[0].endswith("-migrate")} == {
        edge for edge in out if not edge[0].endswith("-migrate")
    }


@pytest.mark.parametrize("values_set", SETS)
def test_every_pod_has_a_policy_that_denies_what_it_does_not_name(values_set: str) -> None:
    policies = {
        policy["spec"]["podSelector"]["matchLabels"][PART]: policy["spec"]["policyTypes"]
        for policy in of_kind(values_set, "NetworkPolicy")
    }
    made = of_kind(values_set, "Deployment", "StatefulSet", "Job")
    parts = {manifest["spec"]["template"]["metadata"]["labels"][PART] for manifest in made} | {"test"}
    assert policies == {part: ["Ingress", "Egress"] for part in parts}


@pytest.mark.parametrize("values_set", SETS)
def test_a_service_has_a_token_for_each_it_calls_and_only_callers_are_known(values_set: str) -> None:
    settings = {m["metadata"]["name"]: m["data"] for m in of_kind(values_set, "ConfigMap")}
    scheme = "https" if values_set == "everything" else "http"
    for deployment in of_kind(values_set, "Deployment"):
        name = deployment["metadata"]["labels"][PART]
        (tokens,) = (v for v in deployment["spec"]["template"]["spec"]["volumes"] if v["name"] == "tokens")
        sources = [source.get("serviceAccountToken", {}) for source in tokens["projected"]["sources"]]
        assert {source["audience"] for source in sources if "audience" in source} == calls(name)
        known = set(re.findall(r":tally-(\w+)", settings[f"tally-{name}"]["TALLY_TOKEN_CALLERS"]))
        assert known == {caller for caller in SERVICES if name in calls(caller)}
        for called in calls(name):
            assert settings[f"tally-{name}"][f"TALLY_{called.upper()}_URL"].startswith(f"{scheme}://tally-{called}:")


@pytest.mark.parametrize("values_set", SETS)
def test_a_service_gets_no_setting_that_it_does_not_know(values_set: str) -> None:
    settings = {m["metadata"]["name"]: m["data"] for m in of_kind(values_set, "ConfigMap")}
    for name in SERVICES:
        known = {f"TALLY_{field.name.upper()}" for field in msgspec.structs.fields(settings_of(name))}
        given = {variable for variable in settings[f"tally-{name}"] if variable.startswith("TALLY_")}
        assert given <= known, name
