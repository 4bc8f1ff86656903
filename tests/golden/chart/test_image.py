"""The image's recipe is what the chart assumes of it, and both are of one version."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from tests.golden.chart.rendering import CHART, of_kind, pods

ROOT = CHART.parents[1]
RECIPE = (ROOT / "Dockerfile").read_text()
STAGES = RECIPE.split("\nFROM ")[1:]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def test_every_stage_is_on_the_base_that_is_chosen_and_the_public_one_is_the_default() -> None:
    assert re.findall(r"^FROM (\S+)", RECIPE, re.MULTILINE) == ["${BASE_IMAGE}"] * 2
    assert "ARG BASE_IMAGE=python:3.11-slim\n" in RECIPE


def test_packages_are_those_of_the_lock_each_checked_by_its_hash() -> None:
    assert "--require-hashes $offline -r /build/image.txt" in RECIPE
    lock = (ROOT / "requirements" / "image.txt").read_text()
    packages = re.split(r"^(?=[a-z0-9])", lock, flags=re.MULTILINE)[1:]
    assert packages and all("--hash=sha256:" in package for package in packages)


def test_it_runs_as_the_user_that_the_chart_runs_it_as() -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", STAGES[-1], re.MULTILINE)
    made = [spec for what, spec in pods("defaults") if what.startswith("Deployment")]
    assert {(spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"]) for spec in made} == {
        (int(user[0]), int(user[1]))
    }


def test_it_says_nothing_of_probes_which_are_the_chart_s() -> None:
    assert not re.search(r"^HEALTHCHECK", RECIPE, re.MULTILINE)


def test_it_names_the_ports_of_the_services() -> None:
    (said,) = re.findall(r"^EXPOSE (.*)$", STAGES[-1], re.MULTILINE)
    ports = {
        port["containerPort"]
        for deployment in of_kind("defaults", "Deployment")
        for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]
        if port["name"] == "http"
    }
    assert set(map(int, said.split())) == ports


@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("Dockerfile", r"^ARG VERSION=(\S+)$"),
        ("Makefile", r"^IMAGE \?= tally:(\S+)$"),
        ("k8s/up", r"IMAGE:=tally:([^}]+)\}"),
        ("k8s/cluster", r"IMAGE:=tally:([^}]+)\}"),
        ("README.md", r"docker-image tally:(\S+)"),
        ("charts/tally/README.md", r"docker-image tally:(\S+)"),
    ],
)
def test_the_version_is_the_same_wherever_it_is_said(file: str, pattern: str) -> None:
    said = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
    assert said and set(said) == {VERSION}


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == VERSION
