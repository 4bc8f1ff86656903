"""The files of k8s/faults are what their README says, and name what the chart has."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.e2e.faults import FOLDER, KINDS, Fault
from tests.golden.chart.rendering import PART, of_kind

VARIABLES = {"POD", "POD_IP", "NODE", "PID", "CGROUP", "PEERS", "FULLNAME", "RELEASE", "CLUSTER"}


@pytest.mark.parametrize("fault", Fault.all(), ids=lambda fault: fault.name)
def test_a_fault_says_what_breaks_and_is_made_of_known_steps(fault: Fault) -> None:
    assert fault.breaks.endswith(".")
    assert fault.begin
    for step in (*fault.before, *fault.begin, *fault.end):
        assert len(step.keys() & set(KINDS)) == 1
        assert step.keys() <= {*KINDS, "mayFail"}
        assert {name for name in re.findall(r"\$([A-Z_]+)", str(step)) if name.isupper()} <= VARIABLES


@pytest.mark.parametrize("fault", Fault.all(), ids=lambda fault: fault.name)
def test_a_fault_is_about_parts_that_are_there(fault: Fault) -> None:
    made = of_kind("defaults", "Deployment", "StatefulSet")
    parts = {manifest["spec"]["template"]["metadata"]["labels"][PART] for manifest in made}
    named = [about["component"] for about in (fault.pods, fault.peers or {}) if "component" in about]
    assert set(named) <= parts
    assert fault.pods.get("count", "all") in ("one", "all")


def test_examples_for_chaos_mesh_are_of_faults_that_are_there() -> None:
    for file in (FOLDER / "chaos-mesh").glob("*.yaml"):
        assert yaml.safe_load(file.read_text())["metadata"]["name"] == file.stem
        assert (FOLDER / file.name).exists()
